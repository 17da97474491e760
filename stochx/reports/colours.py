"""Colours of maps: blue against, red for, white where nothing is said."""

from __future__ import annotations

import numpy as np

PERCENTILE = 99.0
# Blue to white to red at even steps; equal lightness on both sides, told apart by red-green blind readers.
STOPS = np.array([[0.02, 0.19, 0.42], [0.26, 0.58, 0.78], [0.97, 0.97, 0.97], [0.90, 0.46, 0.35], [0.45, 0.01, 0.10]])


def scale_of(values: np.ndarray) -> float:
    """The 99th percentile of |values|, the value at which colours saturate; 1 for an empty map."""
    top = float(np.percentile(np.abs(values), PERCENTILE))
    return top if top > 0 else float(np.abs(values).max()) or 1.0


def diverging(values: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) signed values as (H, W, 3) colours in [0, 1], saturated at +-scale."""
    place = (np.clip(values / scale, -1, 1) + 1) / 2
    stops = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(place, stops, STOPS[:, c]) for c in range(3)], -1).astype(np.float32)
