"""Colours of maps: blue for negative, red for positive, white for zero; of maps without a sign, white to purple."""

from __future__ import annotations

import numpy as np

PERCENTILE = 99.0
# Blue to white to red at even steps; equal lightness on both sides, distinguishable with red-green blindness.
STOPS = np.array([[0.02, 0.19, 0.42], [0.26, 0.58, 0.78], [0.97, 0.97, 0.97], [0.90, 0.46, 0.35], [0.45, 0.01, 0.10]])

PURPLES = np.array([[0.97, 0.97, 0.97], [0.78, 0.72, 0.86], [0.54, 0.42, 0.71], [0.35, 0.13, 0.53], [0.16, 0.0, 0.30]])


def scale_of(values: np.ndarray) -> float:
    """Return the 99th percentile of |values|, at which colours saturate; 1 for a map of zeros."""
    top = float(np.percentile(np.abs(values), PERCENTILE))
    return top if top > 0 else float(np.abs(values).max()) or 1.0


def colours_of(values: np.ndarray, scale: float, signed: bool = True) -> np.ndarray:
    """Turn values (H, W) into colours (H, W, 3) in [0, 1], saturated at +-scale; of unsigned ones |values| counts."""
    place = (np.clip(values / scale, -1, 1) + 1) / 2 if signed else np.clip(np.abs(values) / scale, 0, 1)
    stops = STOPS if signed else PURPLES
    steps = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(place, steps, stops[:, c]) for c in range(3)], -1).astype(np.float32)


def overlay(image: np.ndarray, values: np.ndarray, scale: float, signed: bool = True) -> np.ndarray:
    """Blend the colours of a map (H, W) over a pale grey image (H, W, 3), by strength: (H, W, 3) in [0, 1]."""
    grey = image.mean(2, keepdims=True)
    weight = np.clip(np.abs(values) / scale, 0, 1)[..., None] ** 0.7
    blend: np.ndarray = (1 - weight) * (0.35 + 0.6 * grey) + weight * colours_of(values, scale, signed)
    return blend
