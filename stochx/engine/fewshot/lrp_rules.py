"""LRP rules of few-shot heads (Sun et al., 2020): biases take no relevance, and z is kept 0.01 from zero.

Beside `engine.relevance`, whose stabiliser is theirs. A layer's outputs share their relevance R among its inputs.
Convolutions follow the runtime's precision, as what R is divided by there has terms of one sign; all else does not.
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
TINY = 1e-7  # the least sum that the relevance of a convolution's output is divided by
STEADY = 0.01  # least over largest sum from which on R / z varies so little that a faster convolution is exact enough


def dense(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """Epsilon rule of x w^T: x (..., M, I), w (..., O, I), R (..., M, O) -> x * (R / z) w, (..., M, I).

    The reference puts -1e-6 in place of inputs that are 0, which moves z by as much and gives no relevance to speak of.
    """
    return x * (_over(relevance, x @ weight.mT) @ weight)


def mixed(operator: Tensor, x: Tensor, relevance: Tensor) -> Tensor:
    """Epsilon rule of A x: A (..., O, M) held constant, x (..., M, D), R (..., O, D) -> x * A^T (R / z)."""
    return x * (operator.mT @ _over(relevance, operator @ x))


def summed(x: Tensor, relevance: Tensor) -> Tensor:
    """Sum or mean over the last axis: R (...), of the result, goes by each value's part of the sum."""
    return x * _over(relevance, x.sum(-1)).unsqueeze(-1)


def to_shots(support: Tensor, relevance: Tensor) -> Tensor:
    """Means over the shots of `support` (E, N, K, ...): R (E, N, ...) of the means -> (E, N, K, ...)."""
    return summed(support.movedim(2, -1), relevance).movedim(-1, 2)


def winners(relevance: Tensor, output: Tensor, places: Tensor, size: torch.Size) -> Tensor:
    """Max pooling and ReLU: all to the winner of each window, nothing where the `output` is 0.

    R, `output` and `places`, as the pooling returned them, are (N, C, H', W'); the result is (N, C, H, W), `size`.
    """
    kept = (relevance * (output > 0)).flatten(2)
    return relevance.new_zeros(size).flatten(2).scatter_(2, places.flatten(2), kept).view(size)


def convolved(x: Tensor, weight: Tensor, relevance: Tensor, padding: int) -> Tensor:
    """Alpha1-beta0 rule of a convolution of stride 1, (N, C, H, W): a+ * conv^T(R / z, w+) + a- * conv^T(R / z, w-)."""
    return _sent(x, weight, relevance, supporting(x, weight, padding), padding)


def convolved_pairs(first: Tensor, second: Tensor, weight: Tensor, relevance: Tensor, padding: int) -> Tensor:
    """The same for all pairs of `first` (E, N, C, H, W) and `second` (E, Q, C, H, W), joined in their channels.

    R is (E, Q, N, O, H', W'), the result (E, Q, N, 2 C, H, W). The sum z of a pair is that of its parts.
    """
    parts = zip((first, second), torch.split(weight, first.shape[2], 1), strict=True)
    z, z_second = (each(supporting, maps, part, padding) for maps, part in parts)
    sums = (z[:, None] + z_second[:, :, None]).flatten(0, 2)
    pairs = combined_weights(first, second)
    return _sent(pairs.flatten(0, 2), weight, relevance.flatten(0, 2), sums, padding).view(pairs.shape)


def combined_weights(first: Tensor, second: Tensor) -> Tensor:
    """All pairs [first | second] of maps (E, N, C, H, W) and (E, Q, C, H, W): (E, Q, N, 2 C, H, W)."""
    ways, queries = first.shape[1], second.shape[1]
    one = first[:, None].expand(-1, queries, -1, -1, -1, -1)
    return torch.cat([one, second[:, :, None].expand(-1, -1, ways, -1, -1, -1)], 3)


def each(operation: Callable[..., Tensor], maps: Tensor, *others: Any) -> Tensor:
    """An operation on (B, C, H, W) for all maps (E, N, C, H, W) of all episodes."""
    return torch.unflatten(operation(maps.flatten(0, 1), *others), 0, maps.shape[:2])


def supporting(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """conv(a+, w+) + conv(a-, w-): all that speaks for each output."""
    if x.amin() >= 0:
        return at_runtime_precision(F.conv2d, x, weight.clamp(min=0), None, 1, padding)
    positive = at_runtime_precision(F.conv2d, x.clamp(min=0), weight.clamp(min=0), None, 1, padding)
    return positive + at_runtime_precision(F.conv2d, x.clamp(max=0), weight.clamp(max=0), None, 1, padding)


def _sent(x: Tensor, weight: Tensor, relevance: Tensor, z: Tensor, padding: int) -> Tensor:
    """Share R by a * conv^T(R / z, w), each sign of the inputs a with its own of w; z is changed.

    One z that is small beside the others makes all take the exact sum.
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
