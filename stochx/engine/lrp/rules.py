"""LRP rules as plain functions: relevance of a layer's output -> relevance of its input.

All rules have one form. A layer's pre-activation is a sum of parts layer(x_i; w_i, b_i); with s = R / z each part
sends back x_i * layer^T(s; w_i) (Bach et al., 2015; Montavon et al., 2019). Rules differ in their parts only.
None of them needs autograd, except `through` internally.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

STABILISER = 1e-6

# Convolutions and their transposes, by the axes of their weights.
CONVOLVE: dict[int, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    3: (F.conv1d, conv1d_input),
    4: (F.conv2d, conv2d_input),
    5: (F.conv3d, conv3d_input),
}

Part = tuple[Tensor, Tensor, Tensor | None]  # input, weight, bias


@dataclass(frozen=True)
class Layer:
    """A linear map with a bias: `apply(x, w, b)` and its transpose `back(s, w, like)`, shaped as `like`.

    `output` is what the layer made of its input, where that was recorded.
    """

    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    back: Callable[[Tensor, Tensor, Tensor], Tensor]
    output: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, computed only if it was not recorded."""
        return self.apply(x, self.weight, self.bias) if self.output is None else self.output

    @staticmethod
    def of(module: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Layer:
        """Return the layer that a torch module computes."""
        bias = None if module.bias is None else module.bias.detach()
        if isinstance(module, nn.Linear):
            return Layer.dense(module.weight.detach(), bias)
        settings = module.stride, module.padding, module.dilation, module.groups
        return Layer.convolution(module.weight.detach(), bias, *settings)

    @staticmethod
    def dense(weight: Tensor, bias: Tensor | None = None) -> Layer:
        """Return the layer x w^T + b of inputs (..., I) and weights (O, I)."""
        return Layer(weight, bias, F.linear, lambda s, w, like: s @ w)

    @staticmethod
    def convolution(
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Layer:
        """Return the convolution of inputs (N, I, ...) with weights (O, I / groups, ...) and zero padding."""
        convolve, slope_of = CONVOLVE[weight.dim()]

        def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            return convolve(x, w, b, stride, padding, dilation, groups)

        def back(s: Tensor, w: Tensor, like: Tensor) -> Tensor:
            if isinstance(padding, str):  # "same" may pad the sides unequally
                return through(s, torch.empty_like(like), lambda x: apply(x, w, None), normed=False)
            settings = stride, padding, dilation, groups
            return slope_of(like.shape, w, s, *settings)

        return Layer(weight, bias, apply, back)


def stabilise(z: Tensor, epsilon: float = STABILISER) -> Tensor:
    """Return z + epsilon sign(z), with sign(0) = 1."""
    return z + z.new_tensor(epsilon).copysign(z)


def epsilon(layer: Layer, x: Tensor, relevance: Tensor, stabiliser: float = STABILISER) -> Tensor:
    """Apply LRP-epsilon: x_j w_jk / (z_k + epsilon)."""
    return x * layer.back(relevance / stabilise(layer.forward(x), stabiliser), layer.weight, x)


def alpha_beta(layer: Layer, x: Tensor, relevance: Tensor, alpha: float, beta: float) -> Tensor:
    """Apply LRP-alpha-beta, alpha - beta = 1: positive and negative contributions are weighted separately."""
    positive = _send(layer, _signed_parts(layer, x, up=True), relevance)
    if beta == 0:
        return alpha * positive
    return alpha * positive - beta * _send(layer, _signed_parts(layer, x, up=False), relevance)


def z_plus(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """Apply LRP-z+: alpha-beta with alpha 1 and beta 0, so only positive contributions receive relevance."""
    return _send(layer, _signed_parts(layer, x, up=True), relevance)


def gamma(layer: Layer, x: Tensor, relevance: Tensor, strength: float, stabiliser: float = STABILISER) -> Tensor:
    """Apply LRP-gamma for inputs of any sign (Andéol et al., 2021): parts with the sign of z have weight 1 + gamma.

    Contributions agree with z where sign(x_i w_ij) = sign(z_j), so their weight is
    1 + gamma / 2 (1 + sign(x_i) sign(w_ij) sign(z_j)), and all takes one product with |w| beside that with w.
    """
    z, size = layer.forward(x), layer.weight.abs()
    weight, sign = strength / 2, z.sign()
    mass = layer.apply(x.abs(), size, None if layer.bias is None else layer.bias.abs())
    s = relevance / stabilise(z + weight * (z + sign * mass), stabiliser)
    return (1 + weight) * x * layer.back(s, layer.weight, x) + weight * x.abs() * layer.back(s * sign, size, x)


def flat(layer: Layer, x: Tensor, relevance: Tensor) -> Tensor:
    """Apply LRP-flat: the relevance of each output is spread evenly over its inputs (Lapuschkin et al., 2019).

    All channels of a group receive the same relevance, so only one channel per group is computed.
    """
    axis = 1 if layer.weight.dim() > 2 else x.dim() - 1
    width = layer.weight.shape[1]
    groups = x.shape[axis] // width
    ones, place = torch.ones_like(layer.weight[:groups, :1]), x.narrow(axis, 0, groups)
    reach = width * layer.apply(torch.ones_like(place[:1]), ones, None)
    outputs = torch.unflatten(relevance, axis, (groups, -1)).sum(axis + 1)
    return layer.back(outputs / stabilise(reach), ones, place).repeat_interleave(width, axis)


def box(layer: Layer, x: Tensor, relevance: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Apply LRP-zB for inputs between `low` and `high` (Montavon et al., 2017): (x - low) w+ + (x - high) w-.

    The bias cancels in the three terms x w - low w+ - high w-.
    """
    above, below = (x - low, layer.weight.clamp(min=0), None), (x - high, layer.weight.clamp(max=0), None)
    return _send(layer, [above, below], relevance)


def share(relevance: Tensor, summands: Sequence[Tensor], stabiliser: float = STABILISER) -> list[Tensor]:
    """Redistribute the relevance of a sum in proportion to its summands."""
    s = relevance / stabilise(sum(summands[1:], start=summands[0]), stabiliser)
    return [(summand * s).sum_to_size(summand.shape) for summand in summands]


def through(
    relevance: Tensor,
    x: Tensor,
    operation: Callable[[Tensor], Tensor],
    normed: bool,
    stabiliser: float = STABILISER,
) -> Tensor:
    """Propagate relevance through an operation without weights.

    It follows the gradient where values only move (reshaping, padding, maxima of max pooling); with `normed` it is
    proportional to each value's part of the output, as for means: x * d out / dx (R / out).
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = operation(leaf)
    weight = relevance / stabilise(out.detach(), stabiliser) if normed else relevance
    (slope,) = torch.autograd.grad(out, leaf, weight)
    return x * slope if normed else slope


def _signed_parts(layer: Layer, x: Tensor, up: bool) -> list[Part]:
    """Return the parts that raise each output (`up`), or lower it; a single one if no input is negative."""
    same = _half(layer.weight, up)
    bias = None if layer.bias is None else _half(layer.bias, up)
    if not (x < 0).any():
        return [(x, same, bias)]
    return [(x.clamp(min=0), same, bias), (x.clamp(max=0), _half(layer.weight, not up), None)]


def _half(values: Tensor, up: bool) -> Tensor:
    return values.clamp(min=0) if up else values.clamp(max=0)


def _send(layer: Layer, parts: Sequence[Part], relevance: Tensor) -> Tensor:
    return _redistribute(layer, parts, relevance / stabilise(_total(layer, parts)))


def _total(layer: Layer, parts: Sequence[Part]) -> Tensor:
    return sum((layer.apply(*part) for part in parts[1:]), start=layer.apply(*parts[0]))


def _redistribute(layer: Layer, parts: Sequence[Part], s: Tensor) -> Tensor:
    """Return sum_i x_i * layer^T(s; w_i) over all parts."""
    terms = [x * layer.back(s, w, x) for x, w, _ in parts]
    return sum(terms[1:], start=terms[0])
