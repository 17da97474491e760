"""Areas under curves."""

from __future__ import annotations

import torch
from torch import Tensor


def simpson_weights(points: int, like: Tensor) -> Tensor:
    """Return the weights (points,) of Simpson's rule with a step of 1.

    An odd number of intervals has no Simpson's rule: the result is the mean of two, with a trapezoid at the end and at
    the start (SciPy's former `even="avg"`, which the published areas used). A single point has weight 1.
    """
    if points < 3:
        return like.new_full((points,), 1 / points)
    if points % 2:
        weights = like.new_full((points,), 2 / 3)
        weights[1::2] = 4 / 3
        weights[0] = weights[-1] = 1 / 3
        return weights
    first = torch.cat([simpson_weights(points - 1, like), like.new_zeros(1)])
    first[-2:] += 0.5
    return (first + first.flip(0)) / 2


def simpson(curve: Tensor) -> Tensor:
    """Return the area (N,) under curves (N, P) with a step of 1, by Simpson's rule."""
    return curve @ simpson_weights(curve.shape[1], curve)


def mean_height(curve: Tensor, places: Tensor) -> Tensor:
    """Return the trapezoidal area (N,) under curves (N, P) over `places` (P,), divided by the length."""
    return torch.trapezoid(curve, places, dim=1) / (places[-1] - places[0])
