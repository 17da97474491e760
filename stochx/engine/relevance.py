"""LRP rules as plain functions: relevance of a layer's output -> relevance of its input.

Every rule has one form. A layer's pre-activation is a sum of parts layer(x_i; w_i, b_i); with s = R / z each part
sends x_i * layer^T(s; w_i) back (Bach et al., 2015; Montavon et al., 2019). The rules differ in their parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STABILISER = 1e-6

Part = tuple[Tensor, Tensor, Tensor | None]  # input, weight, bias


@dataclass(frozen=True)
class Layer:
    """A linear map with a bias: `apply(x, w, b)` and its transpose `back(s, w, like)`."""

    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    back: Callable[[Tensor, Tensor, Tensor], Tensor]

    @staticmethod
    def of(module: nn.Linear | nn.Conv2d) -> Layer:
        """The layer that a torch module computes."""
        bias = None if module.bias is None else module.bias.detach()
        if isinstance(module, nn.Linear):
            return Layer(module.weight.detach(), bias, F.linear, lambda s, w, like: s @ w)
        stride, padding, dilation, groups = module.stride, module.padding, module.dilation, module.groups

        def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            return F.conv2d(x, w, b, stride, padding, dilation, groups)

        def back(s: Tensor, w: Tensor, like: Tensor) -> Tensor:
            place = torch.zeros_like(like, requires_grad=True)
            with torch.enable_grad():
                out = F.conv2d(place, w, None, stride, padding, dilation, groups)
            return torch.autograd.grad(out, place, s)[0]

        return Layer(module.weight.detach(), bias, apply, back)


def stabilise(z: Tensor, epsilon: float = STABILISER) -> Tensor:
    """Z moved away from zero by epsilon: z + epsilon sign(z), with sign(0) = 1."""
    return z + torch.where(z >= 0, epsilon, -epsilon)


def _send(layer: Layer, parts: Sequence[Part], relevance: Tensor, epsilon: float = STABILISER) -> Tensor:
    """The relevance that all parts together receive: sum_i x_i * layer^T(R / z; w_i)."""
    z = sum((layer.apply(*part) for part in parts[1:]), start=layer.apply(*parts[0]))
    s = relevance / stabilise(z, epsilon)
    sent = [x * layer.back(s, w, x) for x, w, _ in parts]
    return sum(sent[1:], start=sent[0])


def _signed(x: Tensor, same: Part, other: Part) -> list[Part]:
    """Two parts, or one where the input has no negative value and the other part is all zero."""
    return [same] if not (x < 0).any() else [same, other]


def epsilon(layer: Layer, x: Tensor, relevance: Tensor, stabiliser: float = STABILISER) -> Tensor:
    """LRP-epsilon: x_j w_jk / (z_k + epsilon)."""
    return _send(layer, [(x, layer.weight, layer.bias)], relevance, stabiliser)


def alpha_beta(layer: Layer, x: Tensor, relevance: Tensor, alpha: float, beta: float) -> Tensor:
    """LRP-alpha-beta, alpha - beta = 1: what speaks for and what speaks against each output, apart."""
    w, b = layer.weight, layer.bias
    up, down = x.clamp(min=0), x.clamp(max=0)
    more, less = w.clamp(min=0), w.clamp(max=0)
    b_more, b_less = (None, None) if b is None else (b.clamp(min=0), b.clamp(max=0))
    positive = _send(layer, _signed(x, (up, more, b_more), (down, less, None)), relevance)
    if beta == 0:
        return alpha * positive
    return alpha * positive - beta * _send(layer, _signed(x, (up, less, b_less), (down, more, None)), relevance)


def z_plus(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """LRP-z+: alpha-beta with alpha 1, beta 0; only what speaks for an output receives its relevance."""
    return alpha_beta(layer, x, relevance, 1.0, 0.0)


def gamma(layer: Layer, x: Tensor, relevance: Tensor, strength: float) -> Tensor:
    """LRP-gamma for inputs of any sign (Andéol et al., 2021): parts that agree with z's sign weigh 1 + gamma."""
    w, b = layer.weight, layer.bias
    up, down = x.clamp(min=0), x.clamp(max=0)
    more, less = w + strength * w.clamp(min=0), w + strength * w.clamp(max=0)
    b_more = None if b is None else b + strength * b.clamp(min=0)
    b_less = None if b is None else b + strength * b.clamp(max=0)
    z = layer.apply(x, w, b)
    positive, negative = relevance * (z > 0), relevance * (z < 0)
    sent = _send(layer, _signed(x, (up, more, b_more), (down, less, None)), positive)
    return sent + _send(layer, _signed(x, (up, less, b_less), (down, more, None)), negative)


def flat(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """LRP-flat: each output's relevance spread evenly over its inputs (Lapuschkin et al., 2019)."""
    ones = torch.ones_like(x)
    return _send(layer, [(ones, torch.ones_like(layer.weight), None)], relevance)


def box(layer: Layer, x: Tensor, relevance: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """LRP-zB for inputs between `low` and `high` (Montavon et al., 2017): x w - low w+ - high w-."""
    w, b = layer.weight, layer.bias
    low, high = low.expand_as(x), high.expand_as(x)
    parts = [(x, w, b), (low, w.clamp(min=0), _half(b, True)), (high, w.clamp(max=0), _half(b, False))]
    z, z_low, z_high = (layer.apply(*part) for part in parts)
    s = relevance / stabilise(z - z_low - z_high)
    sent, from_low, from_high = (at * layer.back(s, weight, at) for at, weight, _ in parts)
    return sent - from_low - from_high


def _half(bias: Tensor | None, positive: bool) -> Tensor | None:
    if bias is None:
        return None
    return bias.clamp(min=0) if positive else bias.clamp(max=0)


def share(relevance: Tensor, summands: Sequence[Tensor], total: Tensor) -> list[Tensor]:
    """The relevance of a sum to its summands, each by its part of the total."""
    s = relevance / stabilise(total)
    return [(summand * s).sum_to_size(summand.shape) for summand in summands]


def through(relevance: Tensor, x: Tensor, operation: Callable[[Tensor], Tensor], normed: bool) -> Tensor:
    """Relevance through an operation without weights.

    It follows the gradient where values only move (reshaping, padding, the winners of max pooling); with `normed`
    it goes by each value's part of the output, as for means: x * d out / dx (R / out).
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = operation(leaf)
    weight = relevance / stabilise(out.detach()) if normed else relevance
    (slope,) = torch.autograd.grad(out, leaf, weight)
    return x * slope if normed else slope
