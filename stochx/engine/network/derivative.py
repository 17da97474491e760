"""Gradients against finite differences: a network's backward pass need not be the derivative of its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stochx.engine.network.bpda import smooth_twin
from stochx.engine.network.stochastic import at_scale

REVERSED = -0.5  # ratio below which a gradient points backwards
CHANGE = 0.01  # change of the outputs that a step aims at, relative to their norm
LONGEST = 1 / 255  # longest step, in pixel units per pixel
ROUNDING = 1e-4  # relative change of the outputs that float32 still resolves
SHORTER = 3  # times that a step is quartered where the gradient seems to point backwards


@contextmanager
def as_outside() -> Iterator[None]:
    """In the block autograd and the global random state are as outside a context, whatever it does to the latter."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        yield


@contextmanager
def comparable(model: nn.Module) -> Iterator[None]:
    """In the block `model` has no noise of ours, and its backward stand-ins run forward too.

    Autograd and the global random state are as outside a context.
    """
    with as_outside(), at_scale(model, 0), smooth_twin(model):
        yield


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs (N, K) for x (N, C, H, W), and the gradient of a fixed random combination of them."""
    torch.manual_seed(0)
    x = x.detach().clone().requires_grad_()
    out = function(x)
    if not out.requires_grad:
        return out.detach(), torch.zeros_like(x)
    (gradient,) = torch.autograd.grad((out * _weights(out)).sum(), x, allow_unused=True)
    return out.detach(), torch.zeros_like(x) if gradient is None else gradient


def slope_ratio(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the measured over the predicted change (N,) for a short step along the gradient at x (N, C, H, W).

        (f(x + h g) - f(x - h g)) / (2 h |g|^2),  f a fixed random combination of the outputs, g its gradient

    It is 1 for a derivative, -1 for one of the wrong sign, 0 where the outputs do not follow small steps (quantised
    pixels), and NaN without a finite gradient, or with one too small for the precision. A curved function may fall
    along its gradient too: where it does, shorter steps decide, as far as the precision allows.
    """
    out, gradient = value_and_gradient(function, x)
    norm, scale = gradient.flatten(1).norm(dim=1), out.flatten(1).norm(dim=1)
    longest = LONGEST * gradient[0].numel() ** 0.5
    length = (CHANGE * scale / norm).clamp(max=longest)

    def measured(length: Tensor) -> Tensor:
        step = (length / norm).view(-1, 1, 1, 1) * gradient
        with torch.no_grad():
            ahead, behind = (_value(function, point) for point in (x + step, x - step))
        predicted = 2 * length * norm
        return torch.where(predicted > ROUNDING * scale, (ahead - behind) / predicted, torch.nan)

    ratio = measured(length)
    for times in range(1, SHORTER + 1):
        if not (backwards := ratio < REVERSED).any():
            break
        shorter = measured(length / 4**times)
        ratio = torch.where(backwards & shorter.isfinite(), shorter, ratio)
    return ratio


def _value(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    torch.manual_seed(0)
    out = function(x)
    return (out * _weights(out)).flatten(1).sum(1)


def _weights(out: Tensor) -> Tensor:
    """Return the weights of the combination, the same for every image."""
    return torch.randn(out.shape[1:], generator=torch.Generator().manual_seed(0)).to(out)
