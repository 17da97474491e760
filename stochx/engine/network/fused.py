"""The fused form of a frozen network: the same function, folded, channels-last, with its affine stem split off.

The fused network shares tensors with the original where possible and never changes it. It is cached per network and
rebuilt when weights, modes or settings change. On the first image that a network meets, values and gradients of both
are compared; where they differ the network is used as it is, and the log tells the reason. The gradient of a network
that is used as it is may be anything: it is compared with finite differences, and the log warns if it points backwards.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, fx, nn

from stochx.engine.device import as_float64, lay_out, rows_at_once, saved_bytes
from stochx.engine.network.balanced import balanced
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.derivative import REVERSED, as_outside, comparable, slope_ratio, value_and_gradient
from stochx.engine.network.folding import folded
from stochx.engine.network.graph import UntraceableError, cut, hooks_of, is_recorded, trace
from stochx.engine.network.inplace import without_inplace_start
from stochx.engine.network.lean import lean
from stochx.engine.network.stem import Stem
from stochx.engine.network.wrappers import unwrapped
from stochx.errors import InputError, UsageError


@dataclass(frozen=True)
class FusedNetwork:
    """The network as `whole`: pixels -> logits; if it begins with a convolution, also split into `stem` and `tail`.

    `size` is the shape (C, H, W) of the images that it is for, if it cannot take others. A network that is used as it
    is has no `graph` for a `reason`.
    """

    whole: nn.Module
    stem: Stem | None = None
    tail: nn.Module | None = None
    graph: fx.GraphModule | None = None
    size: torch.Size | None = None
    reason: str = "it is no module of torch"
    _sizes: dict[object, int] = field(default_factory=dict, compare=False)

    def operations(self, hint: str) -> fx.GraphModule:
        """Return `graph`; raises `InputError` with the reason and this hint if there is none."""
        if self.graph is None:
            raise InputError(f"the model's operations cannot be traced: {self.reason}", hint)
        return self.graph

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise pixels for the first operation of `graph`."""
        return self.whole.normalise(x) if isinstance(self.whole, _Normalised) else x

    @cached_property
    def balanced(self) -> FusedNetwork:
        """The same values with balanced gradients; raises `InputError` for a network that cannot be traced."""
        graph = balanced(self.operations("use `backward=plain`"))
        assert isinstance(self.whole, _Normalised)
        return _assembled(graph, self.whole.standardise, self.whole.slope, self.size)

    def rows(self, x: Tensor) -> int:
        """Return the batch size for gradients of images of x's shape (N, C, H, W)."""
        key = (x.shape[1:], x.dtype, x.device)
        if key not in self._sizes:
            self._sizes[key] = saved_bytes(self.whole, x[:1])
        return rows_at_once(self._sizes[key], x.device)


class _Normalised(nn.Module):
    """A folded network with its normalisation, whose derivative is `slope` (1, C, 1, 1), or 1."""

    def __init__(self, network: nn.Module, standardise: Callable[[Tensor], Tensor], slope: Tensor | None) -> None:
        super().__init__()
        self.network, self.standardise, self.slope = network, standardise, slope

    def normalise(self, x: Tensor) -> Tensor:
        x = self.standardise(x)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(x))
        return logits


def _standardise(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    return (x - mean) / std


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass
class _Verdict:
    """Facts of a network with these settings.

    The reason to use it as it is; the sizes of images on which it was compared, None for all; and its trace with the
    tensors in it, which holds when their values change.
    """

    settings: list[object]
    reason: str = ""
    compared: set[torch.Size | None] = field(default_factory=set)
    symbols_differ: bool = False
    traced: tuple[list[int], torch.Size | None, fx.GraphModule] | None = None


PLAIN = (int, float, str)  # and bool, an int

VALUE, GRADIENT = 1e-3, 5e-2  # largest relative differences between a network and its fused form, in float32
COARSE = 0.1, 0.3  # the same in half precision

log = logging.getLogger("stochx")

_untraced: weakref.WeakKeyDictionary[nn.Module, dict[object, int]] = weakref.WeakKeyDictionary()
_verdicts: weakref.WeakKeyDictionary[nn.Module, _Verdict] = weakref.WeakKeyDictionary()
_fused: weakref.WeakKeyDictionary[nn.Module, tuple[object, FusedNetwork]] = weakref.WeakKeyDictionary()


def fused(model: Callable[[Tensor], Tensor], x: Tensor | None = None) -> FusedNetwork:
    """Return the fused form of `model`, or the model as it is if no fused form is the same function.

    Images `x` (N, C, H, W) in [0, 1] are what it is about to see: the first one of the first call compares values and
    gradients. Raises `UsageError` for a model in train mode whose batch norms would mix the images of a batch.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        return FusedNetwork(_Function(model))
    modules = list(model.modules())
    if any(m.training and isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules):
        raise UsageError("the model is in train mode", "call `model.eval()` first")
    state = _fingerprint(modules)
    verdict = _verdicts.get(model)
    if verdict is None or verdict.settings != state[1]:
        verdict = _verdicts[model] = _Verdict(state[1])
    first = x[:1] if x is not None and len(x) else None
    if not verdict.reason:
        entry = _fused.get(model)
        try:
            network = entry[1] if entry is not None and entry[0] == state else None
            if network is None or (network.size and first is not None and network.size != first.shape[1:]):
                network = _make(model, verdict, first)
            if first is not None and network.size not in verdict.compared:
                network = _compared(model, verdict, network, first)
            _fused[model] = (state, network)
            return network
        except UntraceableError as error:
            if first is None:  # what no symbol can pass may be recorded, once there is an image
                return _unchanged(model, str(error))
            verdict.reason = str(error)
            log.info("%s is used as it is: %s", _name(model), error)
    if first is not None and None not in verdict.compared:
        _check_slope(model, first)
        verdict.compared.add(None)
    return _unchanged(model, verdict.reason)


def _unchanged(model: nn.Module, reason: str) -> FusedNetwork:
    """Return the model as it is; this is not cached, or it would keep the model alive."""
    return FusedNetwork(model, reason=reason, _sizes=_untraced.setdefault(model, {}))


def _compared(model: nn.Module, verdict: _Verdict, network: FusedNetwork, x: Tensor) -> FusedNetwork:
    """Return `network` if it is the same function as `model` on x (1, C, H, W); else its recorded form, if that is.

    Raises `UntraceableError`.
    """
    try:
        _check_same(model, network.whole, x)
    except UntraceableError:
        if network.size is not None:
            raise
        verdict.symbols_differ, verdict.traced = True, None
        network = _make(model, verdict, x)
        _check_same(model, network.whole, x)
    verdict.compared.add(network.size)
    return network


def _name(model: nn.Module) -> str:
    return type(getattr(model, "network", model)).__name__


def _check_same(model: nn.Module, network: nn.Module, x: Tensor) -> None:
    """Raise `UntraceableError` if `network` has other values or gradients than `model` on x, both with the same noise.

    The trace holds the scale of the noise, so that it could not be turned off in `network`. What differs is compared
    again on two copies of x: for one image alone, torch returns wrong gradients of batch norms in eval mode before
    tokens (their gradient comes transposed).
    """
    reason = ""
    for images in (x, torch.cat([x, x])):
        with as_outside():
            pairs = [value_and_gradient(function, images) for function in (model, network)]
        limits = COARSE if torch.finfo(pairs[0][0].dtype).eps > 1e-4 else (VALUE, GRADIENT)
        distances = [_distance(own, other) for own, other in zip(*pairs, strict=True)]
        wrong = [k for k, limit in enumerate(limits) if not distances[k] <= limit]
        if not wrong:
            return
        name = ("values", "gradients")[wrong[0]]
        reason = f"the {name} of its trace differ by {distances[wrong[0]]:.2g}, relatively"
    raise UntraceableError(reason)


def _distance(own: Tensor, other: Tensor) -> float:
    """Return the relative distance; 0 if both are undefined."""
    if own.isnan().all() and other.isnan().all():
        return 0.0
    own, other = as_float64(own), as_float64(other)
    return float((own - other).norm() / own.norm().clamp_min(1e-30))


def _check_slope(model: nn.Module, x: Tensor) -> None:
    """Warn if the gradient of `model` at x points backwards."""
    with comparable(model):
        ratio = slope_ratio(model, x)
    if (ratio < REVERSED).any():
        log.warning(
            "the gradient of `%s` points backwards: a step along it changes the outputs by %.2g of what it predicts",
            _name(model),
            float(ratio.min()),
        )


class _Function(nn.Module):
    """A plain function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def _fingerprint(modules: Sequence[nn.Module]) -> tuple[list[object], list[object]]:
    """Return the state that a fused network depends on: address and version of tensors, and settings of modules.

    It is computed at every step of an attack, so it visits each module once.
    """
    tensors, settings = list[object](), list[object]()
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                tensors.append((tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device))
        settings += [item for item in vars(module).items() if isinstance(item[1], PLAIN)]
        settings.append(sum(len(hooks) for hooks in hooks_of(module)))
    return tensors, settings


def _make(model: nn.Module, verdict: _Verdict, x: Tensor | None) -> FusedNetwork:
    traced = _traced(model.network if isinstance(model, Classifier) else model, verdict, x)
    size = x.shape[1:] if x is not None and is_recorded(traced) else None
    graph = folded(traced, x)
    lay_out(graph, torch.channels_last)
    if isinstance(model, Classifier):
        return _assembled(graph, partial(_standardise, model.mean, model.std), 1 / model.std, size)
    return _assembled(graph, _as_it_is, None, size)


def _assembled(
    graph: fx.GraphModule, normalise: Callable[[Tensor], Tensor], slope: Tensor | None, size: torch.Size | None
) -> FusedNetwork:
    """Return the fast form of `graph` behind its normalisation, with its stem split off where it has one."""
    fast = lean(graph)
    whole = _Normalised(fast, normalise, slope)
    nodes = list(fast.graph.nodes)
    first = nodes[1] if nodes[0].op == "placeholder" and len(nodes[0].users) == 1 else None
    if first is None or first.op != "call_module":
        return FusedNetwork(whole, graph=graph, size=size)
    conv, parts = fast.get_submodule(str(first.target)), cut(fast, first)
    if not isinstance(conv, nn.Conv2d) or not Stem.suits(conv) or parts is None:
        return FusedNetwork(whole, graph=graph, size=size)
    steepness = torch.ones_like(conv.weight[:1, :, :1, :1]) if slope is None else slope
    return FusedNetwork(whole, Stem(conv, normalise, steepness), without_inplace_start(parts[1]), graph, size)


def _traced(network: nn.Module, verdict: _Verdict, x: Tensor | None) -> fx.GraphModule:
    """Return the trace of `network`: that of an earlier call, if it has the same tensors and suits x (1, C, H, W)."""
    tensors = [id(tensor) for tensor in (*network.parameters(), *network.buffers())]
    if verdict.traced is not None:
        same, size, graph = verdict.traced
        if same == tensors and (size is None or (x is not None and size == x.shape[1:])):
            return graph
    graph = trace(network, x, symbols=not verdict.symbols_differ)
    verdict.traced = tensors, x.shape[1:] if x is not None and is_recorded(graph) else None, graph
    return graph
