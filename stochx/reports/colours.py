"""Colours of maps: blue for negative, red for positive, white for zero."""

from __future__ import annotations

import numpy as np

PERCENTILE = 99.0
# Blue to white to red at even steps; equal lightness on both sides, distinguishable with red-green blindness.
STOPS = np.array([[0.02, 0.19, 0.42], [0.26, 0.58, 0.78], [0.97, 0.97, 0.97], [0.90, 0.46, 0.35], [0.45, 0.01, 0.10]])


def scale_of(values: np.ndarray) -> float:
    """Return the 99th percentile of |values|, at which colours saturate; 1 for a map of zeros."""
    top = float(np.percentile(np.abs(values), PERCENTILE))
    return top if top > 0 else float(np.abs(values).max()) or 1.0


def diverging(values: np.ndarray, scale: float) -> np.ndarray:
    """Turn signed values (H, W) into colours (H, W, 3) in [0, 1], saturated at +-scale."""
    place = (np.clip(values / scale, -1, 1) + 1) / 2
    stops = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(place, stops, STOPS[:, c]) for c in range(3)], -1).astype(np.float32)


def overlay(image: np.ndarray, values: np.ndarray, scale: float) -> np.ndarray:
    """Blend the colours of signed values (H, W) over a pale grey image (H, W, 3), by strength: (H, W, 3) in [0, 1]."""
    grey = image.mean(2, keepdims=True)
    weight = np.clip(np.abs(values) / scale, 0, 1)[..., None] ** 0.7
    blend: np.ndarray = (1 - weight) * (0.35 + 0.6 * grey) + weight * diverging(values, scale)
    return blend
