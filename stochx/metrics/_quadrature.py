"""Areas under curves."""

from __future__ import annotations

import torch
from torch import Tensor


def simpson_weights(points: int, like: Tensor) -> Tensor:
    """Weights (points,) of Simpson's rule with a step of 1.

    An odd number of intervals has no Simpson's rule of its own: the mean of two is taken, one with a trapezoid at
    the end, one with a trapezoid at the start (SciPy's former `even="avg"`, which the published areas were made
    with). One point has no area and stands for itself.
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
    """The area under (N, P) curves with a step of 1, by Simpson's rule: (N,)."""
    return curve @ simpson_weights(curve.shape[1], curve)


def mean_height(curve: Tensor, places: Tensor) -> Tensor:
    """The area under (N, P) curves over `places` (P,) by trapezoids, divided by the length: (N,)."""
    return torch.trapezoid(curve, places, dim=1) / (places[-1] - places[0])
