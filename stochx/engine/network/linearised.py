"""Operations with the value of the usual ones, but a backward that is linear in what they get: the parts of `balanced`.

An operation y = A(x) x + c, whose factor A depends on x as the gate of an activation or the division of a norm does,
sends back A(x)^T: the factor counts as a constant. So <x, A^T g> + <c, g> = <y, g>.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Transpose = Callable[..., Tensor]  # (gradient of the output, *constants) -> gradient of the input
Evaluated = tuple[Tensor, Transpose, Sequence[Tensor]]  # the value, the backward, and the constants that it takes


class _Linearised(torch.autograd.Function):
    """Returns the value that `evaluate` gives for x, and sends gradients back through its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluate: Callable[[Tensor], Evaluated]) -> Tensor:
        value, ctx.transpose, constants = evaluate(x)
        ctx.save_for_backward(*constants)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.transpose(gradient, *ctx.saved_tensors), None


def _linearised(x: Tensor, evaluate: Callable[[Tensor], Evaluated]) -> Tensor:
    out: Tensor = _Linearised.apply(x, evaluate)
    return out


def _times(gradient: Tensor, *factors: Tensor) -> Tensor:
    for factor in factors:
        gradient = gradient * factor
    return gradient


def share(x: Tensor, part: float) -> Tensor:
    """Return x, whose gradient is `part` of what comes back: each of n factors of a product gets one nth."""
    return _linearised(x, lambda value: (value.view_as(value), lambda gradient: part * gradient, ()))


class Secant(nn.Module):
    """An activation g, given as a module, a function or the name of a method: it sends back its secant from zero.

        g(x) = g(0) + s(x) x,  s(x) = (g(x) - g(0)) / x

    s is the gate of GELU and SiLU, Phi(x) and sigmoid(x), and the gradient of ReLU.
    """

    def __init__(self, activation: nn.Module | Callable[..., Tensor] | str) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return g(x), of the shape of x; further arguments are those of g."""

        def g(z: Tensor) -> Tensor:
            function: Any = self.activation
            out: Tensor = (
                getattr(z, function)(*args, **kwargs) if isinstance(function, str) else function(z, *args, **kwargs)
            )
            return out

        def evaluate(z: Tensor) -> Evaluated:
            value, zero = g(z), z.new_zeros(1)
            least = torch.finfo(z.dtype).eps ** 0.5  # below, the difference would be rounding
            if start := g(zero).item():
                apart = torch.where(z.abs() < least, torch.full_like(z, least), z)
                return value, _times, ((g(apart) - start) / apart,)
            return value, _times, (torch.where(z == 0, g(zero + least) / least, value / z),)

        return _linearised(x, evaluate)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm` with a constant standard deviation."""
    axes = tuple(range(-len(normalized_shape), 0))

    def transpose(gradient: Tensor, rate: Tensor, *weights: Tensor) -> Tensor:
        sent = _times(gradient, *weights)
        return (sent - sent.mean(axes, keepdim=True)) * rate

    def evaluate(x: Tensor) -> Evaluated:
        rate = torch.rsqrt(x.var(axes, correction=0, keepdim=True) + eps)
        return F.layer_norm(x, list(normalized_shape), weight, bias, eps), transpose, (rate, *_given(weight))

    return _linearised(input, evaluate)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`F.group_norm` with a constant standard deviation."""
    return _by_groups(input, num_groups, weight, eps, lambda x: F.group_norm(x, num_groups, weight, bias, eps))


def _by_groups(
    input: Tensor, num_groups: int, weight: Tensor | None, eps: float, norm: Callable[[Tensor], Tensor]
) -> Tensor:
    def transpose(gradient: Tensor, rate: Tensor, *weights: Tensor) -> Tensor:
        sent = _times(gradient, *(w.view(-1, *[1] * (gradient.dim() - 2)) for w in weights))
        groups = sent.reshape(len(sent), num_groups, -1)
        return ((groups - groups.mean(2, keepdim=True)) * rate).view(gradient.shape)

    def evaluate(x: Tensor) -> Evaluated:
        rate = torch.rsqrt(x.reshape(len(x), num_groups, -1).var(2, correction=0, keepdim=True) + eps)
        return norm(x), transpose, (rate, *_given(weight))

    return _linearised(input, evaluate)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm` with a constant standard deviation."""

    def norm(x: Tensor) -> Tensor:
        return F.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)

    return _by_groups(input, input.shape[1], weight, eps, norm) if use_input_stats else norm(input)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """`F.rms_norm` with a constant root mean square."""
    axes = tuple(range(-len(normalized_shape), 0))

    def evaluate(x: Tensor) -> Evaluated:
        floor = torch.finfo(x.dtype).eps if eps is None else eps
        rate = torch.rsqrt(x.square().mean(axes, keepdim=True) + floor)
        return F.rms_norm(x, list(normalized_shape), weight, eps), _times, (rate, *_given(weight))

    return _linearised(input, evaluate)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """`F.normalize` with a constant norm."""
    return _linearised(
        input, lambda x: (F.normalize(x, p, dim, eps), _times, (1 / x.norm(p, dim, keepdim=True).clamp_min(eps),))
    )


def _given(weight: Tensor | None) -> list[Tensor]:
    return [] if weight is None else [weight.detach()]


class Norm(nn.Module):
    """A module of a norm, with a constant standard deviation; see the function of its name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's value of x."""
        m: Any = self.module
        if isinstance(m, nn.LayerNorm):
            return layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps)
        if isinstance(m, nn.GroupNorm):
            return group_norm(x, m.num_groups, m.weight, m.bias, m.eps)
        if isinstance(m, nn.RMSNorm):
            return rms_norm(x, m.normalized_shape, m.weight, m.eps)
        stats = m.training or not m.track_running_stats
        return instance_norm(x, m.running_mean, m.running_var, m.weight, m.bias, stats, m.momentum, m.eps)


FUNCTIONS: dict[object, Callable[..., Tensor]] = {
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.rms_norm: rms_norm,
    F.normalize: normalize,
}
