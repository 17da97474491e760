"""Backward stand-ins: a layer whose forward pass is its own, and whose gradient is that of another function (BPDA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from stochx.errors import InputError

Layer = Callable[[Tensor], Tensor]


def bpda(module: Layer, backward: Layer | None = None) -> nn.Module:
    """Return `module` with the gradient of `backward` at the same input; without one, that of the identity.

    Backward pass differentiable approximation (Athalye et al., 2018), for layers without a useful gradient of their
    own, such as rounding or JPEG. Values are always those of `module`, so that verdicts are unchanged; gradients, as
    attacks and explanations follow them, are those of `backward`, whose outputs must have the same shape. Weights of
    `module` get no gradients. Raises `InputError` for what cannot be called; the layer, when it runs, for other shapes.
    """
    for name, part in (("module", module), ("backward", backward)):
        if isinstance(part, type):
            raise InputError(f"`{name}` of `bpda` is a class, not a layer", f"make one: `{part.__name__}()`")
        if not callable(part) and (part is not None or name == "module"):
            raise InputError(
                f"`{name}` of `bpda` is of type {type(part).__name__}, and cannot be called",
                "give a module or a function from a tensor to a tensor; without `backward`, the identity stands in",
            )
    return StandIn(module, backward)


class StandIn(nn.Module):
    """The layer that `bpda` returns."""

    def __init__(self, module: Layer, backward: Layer | None) -> None:
        super().__init__()
        self.stand_in = backward  # before `module`: the last layer with weights of a network is one that runs forward
        self.module = module
        self.smooth = False  # the stand-in runs forward too, as `smooth_twin` sets it

    def forward(self, x: Tensor) -> Tensor:
        """Return `module(x)`; in training and attacks, with the gradient of the stand-in."""
        if not torch.is_grad_enabled() and not self.smooth:
            return self.module(x)
        smooth = x if self.stand_in is None else self.stand_in(x.clone())  # both may work in place
        if self.smooth:
            return smooth
        with torch.no_grad():
            exact = self.module(x.clone())
        shapes = _shape(exact), _shape(smooth)
        if not isinstance(exact, Tensor) or shapes[0] != shapes[1]:
            raise InputError(
                f"the layer of `bpda` returns {shapes[0]}, its backward stand-in {shapes[1]}",
                "give two functions from a tensor to a tensor, whose outputs have the same shape",
            )
        return cast(Tensor, _Swap.apply(smooth, exact))

    def extra_repr(self) -> str:
        """Name the stand-in, which need not be a module."""
        return f"gradient of {self.name}"

    @property
    def name(self) -> str:
        """The name of what stands in."""
        return "the identity" if self.stand_in is None else _name(self.stand_in)


def _shape(output: object) -> str:
    """Return the shape of a tensor, or the type of anything else, as text."""
    return str(tuple(output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"


class _Swap(torch.autograd.Function):
    """The second tensor, with the graph of the first."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _name(function: Layer) -> str:
    return getattr(function, "__name__", type(function).__name__)


def stand_ins(model: nn.Module) -> dict[str, StandIn]:
    """Return the layers of `model` that have a stand-in, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, StandIn)}


@contextmanager
def smooth_twin(model: nn.Module) -> Iterator[None]:
    """In the block stand-ins of `model` run forward too, so that gradients are derivatives of the outputs."""
    layers = stand_ins(model).values()
    for layer in layers:
        layer.smooth = True
    try:
        yield
    finally:
        for layer in layers:
            layer.smooth = False
