"""What the modules of a network do with one image: shapes, the axis of channels, residual sums, heads."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from stochx.engine.modes import frozen_weights
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.opening import opened

LAYERS = (nn.Conv2d, nn.Linear)
FIRST_AXIS_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
NORM = re.compile(r"(batch|layer|group|rms|instance)_?norm", re.IGNORECASE)  # names of norms that torch does not have
SUMS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Visit:
    """A module that ran on one image, with the shapes of its first input and its output, which may be no tensors.

    `sees_image`: its output depends on the image, unlike that of a layer on a table of positions; `is_residual`: it
    adds its input to something itself; `is_head`: it is a layer, and the last one before the logits.
    """

    name: str
    module: nn.Module
    read: Shape | None
    made: Shape | None
    sees_image: bool
    is_residual: bool
    is_head: bool

    @property
    def is_layer(self) -> bool:
        """True for a convolution or a linear layer."""
        return isinstance(self.module, LAYERS)

    @property
    def is_norm(self) -> bool:
        """True for a batch, instance, group, layer or RMS norm, also one of another library's."""
        known = isinstance(self.module, (*FIRST_AXIS_NORMS, nn.LayerNorm, nn.RMSNorm))
        alone = next(self.module.children(), None) is None
        return known or (alone and NORM.search(type(self.module).__name__) is not None)


def visits(model: Classifier) -> list[Visit]:
    """Return the modules that run in eval mode, each once, in the order in which they first return.

    They are those of the network with open attention, whose projections are modules.
    """
    network = opened(model.network)
    log = _Log(network)
    with log, evaluating(network), frozen_weights(network), torch.enable_grad(), torch.random.fork_rng():
        out = network(model.normalise(model.blank()).requires_grad_())
    heads, blind = log.heads(out), log.blind if out.requires_grad else set()  # a part without gradients hides all
    return [
        Visit(name, log.modules[name], read, made, name not in blind, name in log.residual, name in heads)
        for name, (read, made) in log.shapes.items()
    ]


class _Log(TorchFunctionMode):
    """Notes the modules of a network while it runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.modules = {name: module for name, module in network.named_modules() if name}
        self.shapes: dict[str, tuple[Shape | None, Shape | None]] = {}
        self.residual: set[str] = set()
        self.blind: set[str] = set()
        self._ends: dict[Node, str] = {}  # the operation of autograd that made a layer's output
        self._running: list[tuple[str, list[Tensor]]] = []  # innermost last, with their inputs
        self._handles: list[Any] = []

    def __enter__(self) -> _Log:
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_pre_hook(self._start(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._end(name)))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in SUMS and self._running:
            name, inputs = self._running[-1]
            if len(args) > 1 and isinstance(args[1], Tensor) and any(value is x for value in args[:2] for x in inputs):
                self.residual.add(name)
        return func(*args, **(kwargs or {}))

    def _start(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
            self._running.append((name, [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]))

        return hook

    def _end(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Sequence[Any], output: Any) -> None:
            _, inputs = self._running.pop()
            self.shapes.setdefault(name, (_shape(inputs[0]) if inputs else None, _shape(output)))
            if isinstance(output, Tensor) and not output.requires_grad:
                self.blind.add(name)
            if isinstance(module, LAYERS) and isinstance(output, Tensor) and output.grad_fn is not None:
                self._ends[output.grad_fn] = name

        return hook

    def heads(self, logits: Tensor) -> set[str]:
        """Return the layers on whose outputs the logits depend through no other layer."""
        found, seen, waiting = set[str](), set[Node](), [logits.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in self._ends:
                found.add(self._ends[node])
            else:
                waiting += [source for source, _ in node.next_functions]
        layers = [name for name in self.shapes if isinstance(self.modules[name], LAYERS)]
        return found or set(layers[-1:])  # a part without gradients hides them


def _shape(value: object) -> Shape | None:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) and value.dim() else None


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block, and restore the mode of every module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def channel_axis(visit: Visit, shape: Shape, inside: Sequence[Visit]) -> int:
    """Return the axis of channels of a value of `shape`, which the module reads or makes: 0, or the last one.

    Maps (C, H, W) have it first, tokens (T, C) and maps (H, W, C) last. A module that is neither a layer nor a norm has
    the layout that the first layer or norm `inside` of it reads.
    """
    last = len(shape) - 1
    module = visit.module
    if last < 1 or isinstance(module, (nn.Conv2d, *FIRST_AXIS_NORMS)):
        return 0
    if isinstance(module, nn.Linear):
        return last
    if visit.is_norm:
        return _axis_of_norm(module, shape)
    first = next((v for v in inside if (v.is_layer or v.is_norm) and v.read), None)
    if len(shape) != 3 or first is None or first.read is None:
        return 0 if len(shape) == 3 else last
    return 0 if channel_axis(first, first.read, ()) == 0 else last


def _axis_of_norm(norm: nn.Module, shape: Shape) -> int:
    """Return the axis of a norm over channels, some of which permute maps (C, H, W) themselves."""
    last, width = len(shape) - 1, sum(p.numel() for p in list(norm.parameters())[:1])
    plain = type(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward)
    if plain or len(shape) != 3 or width != shape[0]:
        return last if len(getattr(norm, "normalized_shape", "1")) == 1 or last == 1 else 0
    return last if width == shape[last] and "2d" not in type(norm).__name__.lower() else 0
