"""LRP rules of few-shot heads (Sun et al., 2020): biases receive no relevance, and z is kept 0.01 away from zero.

They use `stabilise` of `engine.lrp.rules`. Each layer redistributes the relevance R of its outputs
to its inputs. Convolutions use the runtime's precision, as their denominators sum terms of one sign; others do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.device import at_runtime_precision
from stochx.engine.fewshot.convolution import convolve_back
from stochx.engine.lrp.rules import stabilise

EPSILON = 0.01
TINY = 1e-7  # smallest denominator of the relevance of a convolution
STEADY = 0.01  # ratio of smallest to largest z above which the faster convolution is accurate enough for R / z


def dense(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """Apply the epsilon rule to x w^T: x (..., M, I), w (..., O, I), R (..., M, O) -> x * (R / z) w, (..., M, I).

    The reference replaces inputs of 0 by -1e-6, which changes z by as much and the relevance negligibly.
    """
    return x * (_over(relevance, x @ weight.mT) @ weight)


def mixed(operator: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """Apply the epsilon rule to A x: constant A (..., O, M), x (..., M, D), R (..., O, D) -> x * A^T (R / z)."""
    return x * (operator.mT @ _over(relevance, operator @ x))


def summed(x: Tensor, relevance: Tensor) -> Tensor:
    """Redistribute R (...) of a sum or mean over the last axis in proportion to the summands."""
    return x * _over(relevance, x.sum(-1)).unsqueeze(-1)


def to_shots(support: Tensor, relevance: Tensor) -> Tensor:
    """Redistribute R (E, N, ...) of the means over shots to the shots of `support` (E, N, K, ...)."""
    return summed(support.movedim(2, -1), relevance).movedim(-1, 2)


def winners(relevance: Tensor, output: Tensor, places: Tensor, size: torch.Size) -> Tensor:
    """Pass R through max pooling and ReLU: to the maximum of each window, and nowhere if the `output` is 0.

    R, `output` and `places`, as returned by the pooling, are (N, C, H', W'); the result is (N, C, H, W), of `size`.
    """
    relevance_of_maxima = (relevance * (output > 0)).flatten(2)
    return relevance.new_zeros(size).flatten(2).scatter_(2, places.flatten(2), relevance_of_maxima).view(size)


def convolved(x: Tensor, weight: Tensor, relevance: Tensor, padding: int) -> Tensor:
    """Apply the alpha1-beta0 rule to a convolution of stride 1: a+ * conv^T(R / z, w+) + a- * conv^T(R / z, w-)."""
    return _redistribute(x, weight, relevance, supporting(x, weight, padding), padding)


def convolved_pairs(first: Tensor, second: Tensor, weight: Tensor, relevance: Tensor, padding: int) -> Tensor:
    """Apply it to all pairs of `first` (E, N, C, H, W) and `second` (E, Q, C, H, W), stacked along the channels.

    R is (E, Q, N, O, H', W'), the result (E, Q, N, 2 C, H, W). z of a pair is the sum over its parts.
    """
    parts = zip((first, second), torch.split(weight, first.shape[2], 1), strict=True)
    z, z_second = (each(supporting, maps, part, padding) for maps, part in parts)
    sums = (z[:, None] + z_second[:, :, None]).flatten(0, 2)
    pairs = combined_weights(first, second)
    return _redistribute(pairs.flatten(0, 2), weight, relevance.flatten(0, 2), sums, padding).view(pairs.shape)


def combined_weights(first: Tensor, second: Tensor) -> Tensor:
    """Return all pairs [first | second] (E, Q, N, 2 C, H, W) of maps (E, N, C, H, W) and (E, Q, C, H, W)."""
    ways, queries = first.shape[1], second.shape[1]
    repeated = first[:, None].expand(-1, queries, -1, -1, -1, -1)
    return torch.cat([repeated, second[:, :, None].expand(-1, -1, ways, -1, -1, -1)], 3)


def each(operation: Callable[..., Tensor], maps: Tensor, *others: Any) -> Tensor:
    """Apply an operation on (B, C, H, W) to all maps (E, N, C, H, W) of all episodes."""
    return torch.unflatten(operation(maps.flatten(0, 1), *others), 0, maps.shape[:2])


def supporting(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return conv(a+, w+) + conv(a-, w-), the positive contributions to each output."""
    if x.amin() >= 0:
        return at_runtime_precision(F.conv2d, x, weight.clamp(min=0), None, 1, padding)
    positive = at_runtime_precision(F.conv2d, x.clamp(min=0), weight.clamp(min=0), None, 1, padding)
    return positive + at_runtime_precision(F.conv2d, x.clamp(max=0), weight.clamp(max=0), None, 1, padding)


def _redistribute(x: Tensor, weight: Tensor, relevance: Tensor, z: Tensor, padding: int) -> Tensor:
    """Return a * conv^T(R / z, w), with inputs a and weights w of equal sign; overwrites z.

    A single z that is small relative to the others makes all use the exact convolution.
    """
    exact = bool(z.amin() < STEADY * z.amax())
    s = relevance / z.clamp_(min=TINY)
    up = at_runtime_precision(convolve_back, s, weight.clamp(min=0), padding, exact)
    if x.amin() >= 0:
        return up.mul_(x)
    down = at_runtime_precision(convolve_back, s, weight.clamp(max=0), padding, exact)
    return torch.where(x < 0, down, up).mul_(x)


def _over(relevance: Tensor, z: Tensor) -> Tensor:
    return relevance / stabilise(z, EPSILON)
