"""The fused form of a frozen network: the same function, folded, channels-last, with its affine stem split off.

The fused network shares tensors with the original where possible and never changes it. It is cached per network and
rebuilt when weights, modes or settings change. On the first image that a network meets, values and gradients of both
are compared; where they differ the network is used as it is, and the log tells the reason. The gradient of a network
that is used as it is may be anything: it is compared with finite differences, and the log warns if it points backwards.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.device import rows_at_once, saved_bytes
from stochx.engine.network.balanced import balanced
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.derivative import REVERSED, as_outside, comparable, slope_ratio, value_and_gradient
from stochx.engine.network.folding import folded
from stochx.engine.network.graph import UntraceableError, cut, hooks_of, lean, trace
from stochx.engine.network.wrappers import unwrapped
from stochx.errors import InputError, UsageError


class Stem(nn.Module):
    """The affine beginning of a network: pixels -> first convolution's output, and its transpose.

    As it commutes with sums, it need not run for every point of a path or every noisy copy.
    """

    def __init__(self, conv: nn.Conv2d, normalise: Callable[[Tensor], Tensor], slope: Tensor) -> None:
        """Wrap `conv`; `slope` (1, C, 1, 1) is the derivative of `normalise`, which must be affine, per channel."""
        super().__init__()
        self.conv, self.normalise = conv, normalise
        self.kernel, self.reach = _phases(conv.weight.detach() * slope, conv.stride[0], int(conv.padding[0]))

    @staticmethod
    def suits(conv: nn.Conv2d) -> bool:
        """Return True for a plain square convolution, which `transpose` supports."""
        return (
            conv.groups == 1
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and len({*conv.stride}) == len({*conv.padding}) == len({*conv.kernel_size}) == 1
            and {*conv.dilation} == {1}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the stem's output (N, D, H', W') for pixels (N, C, H, W)."""
        hidden: Tensor = self.conv(self.normalise(x))
        return hidden

    def transpose(self, gradient: Tensor, like: Tensor) -> Tensor:
        """Return the gradient of the pixels, shaped as `like`, from that of the stem's output.

        A strided transposed convolution equals a dense one per output phase followed by a pixel shuffle, which is
        about three times faster on a CPU than the general kernel.
        """
        height, width = like.shape[-2:]
        stride, (low, high) = self.conv.stride[0], self.reach
        rows, columns = -(-height // stride), -(-width // stride)
        pad = (-low, columns + high - gradient.shape[-1], -low, rows + high - gradient.shape[-2])
        phases = F.conv2d(F.pad(gradient, pad), self.kernel.to(gradient.dtype))
        return F.pixel_shuffle(phases, stride)[..., :height, :width]


def _phases(weight: Tensor, stride: int, padding: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the kernel (C * stride^2, D, K', K') of the transposed convolution by output phase, and its padding.

    With (q, r) = divmod(phase + padding, stride), pixel stride * i + phase depends on the output at i + q - m through
    tap r + stride * m.
    """
    out_channels, in_channels, size, _ = weight.shape
    taps = {
        (phase, (phase + padding) // stride - m): k
        for phase in range(stride)
        for m, k in enumerate(range((phase + padding) % stride, size, stride))
    }
    low, high = min(d for _, d in taps), max(d for _, d in taps)
    kernel = weight.new_zeros(in_channels, stride, stride, out_channels, high - low + 1, high - low + 1)
    for (a, d), k in taps.items():
        for (b, e), m in taps.items():
            kernel[:, a, b, :, d - low, e - low] = weight[:, :, k, m].T
    return kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last), (low, high)


@dataclass(frozen=True)
class FusedNetwork:
    """The network as `whole`: pixels -> logits; if it begins with a convolution, also split into `stem` and `tail`."""

    whole: nn.Module
    stem: Stem | None = None
    tail: nn.Module | None = None
    graph: fx.GraphModule | None = None
    _sizes: dict[object, int] = field(default_factory=dict, compare=False)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise pixels for the first operation of `graph`."""
        return self.whole.normalise(x) if isinstance(self.whole, _Normalised) else x

    @cached_property
    def balanced(self) -> FusedNetwork:
        """The same values with balanced gradients; raises `InputError` for a network that cannot be traced."""
        if self.graph is None or not isinstance(self.whole, _Normalised):
            raise InputError("balanced gradients need the operations of the network", "use `backward=plain`")
        return _assembled(balanced(self.graph), self.whole.standardise, self.whole.slope)

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
    """Facts of a network with these settings: the reason to use it as it is, and true once it has met an image."""

    settings: list[object]
    reason: str = ""
    compared: bool = False


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
    unseen = None if verdict.compared or x is None or not len(x) else x[:1]
    if not verdict.reason:
        entry = _fused.get(model)
        try:
            network = entry[1] if entry is not None and entry[0] == state else _make(model)
            if unseen is not None:
                _check_same(model, network.whole, unseen)
                verdict.compared = True
            _fused[model] = (state, network)
            return network
        except UntraceableError as error:
            verdict.reason = str(error)
            log.info("%s is used as it is: %s", _name(model), error)
    if unseen is not None:
        _check_slope(model, unseen)
        verdict.compared = True
    return FusedNetwork(model, _sizes=_untraced.setdefault(model, {}))  # not cached: it would keep the model alive


def _name(model: nn.Module) -> str:
    return type(getattr(model, "network", model)).__name__


def _check_same(model: nn.Module, network: nn.Module, x: Tensor) -> None:
    """Raise `UntraceableError` if `network` has other values or gradients than `model` on x, both with the same noise.

    The trace holds the scale of the noise, so that it could not be turned off in `network`.
    """
    with as_outside():
        pairs = [value_and_gradient(function, x) for function in (model, network)]
    limits = COARSE if torch.finfo(pairs[0][0].dtype).eps > 1e-4 else (VALUE, GRADIENT)
    for name, limit, own, other in zip(("values", "gradients"), limits, *pairs, strict=True):
        distance = float((own.double() - other.double()).norm() / own.double().norm().clamp_min(1e-30))
        undefined = bool(own.isnan().all() and other.isnan().all())
        if not undefined and not distance <= limit:
            raise UntraceableError(f"the {name} of its trace differ by {distance:.2g}, relatively")


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


def _make(model: nn.Module) -> FusedNetwork:
    graph = folded(trace(model.network if isinstance(model, Classifier) else model))
    for tensor in (*graph.parameters(), *graph.buffers()):
        if tensor.dim() == 4:  # `Module.to` would convert attention masks of five axes too, and fail
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    if isinstance(model, Classifier):
        return _assembled(graph, partial(_standardise, model.mean, model.std), 1 / model.std)
    return _assembled(graph, _as_it_is, None)


def _assembled(graph: fx.GraphModule, normalise: Callable[[Tensor], Tensor], slope: Tensor | None) -> FusedNetwork:
    """Return the fast form of `graph` behind its normalisation, with its stem split off where it has one."""
    fast = lean(graph)
    whole = _Normalised(fast, normalise, slope)
    nodes = list(fast.graph.nodes)
    first = nodes[1] if nodes[0].op == "placeholder" and len(nodes[0].users) == 1 else None
    if first is None or first.op != "call_module":
        return FusedNetwork(whole, graph=graph)
    conv, parts = fast.get_submodule(str(first.target)), cut(fast, first)
    if not isinstance(conv, nn.Conv2d) or not Stem.suits(conv) or parts is None:
        return FusedNetwork(whole, graph=graph)
    steepness = torch.ones_like(conv.weight[:1, :, :1, :1]) if slope is None else slope
    return FusedNetwork(whole, Stem(conv, normalise, steepness), _without_inplace_start(parts[1]), graph)


def _without_inplace_start(tail: fx.GraphModule) -> fx.GraphModule:
    """Make the first activation of `tail` out of place, since its input is a leaf of autograd."""
    hidden = next(iter(tail.graph.nodes))
    readers = list(hidden.users)
    for node in readers:
        keywords, module = node.kwargs, tail.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):  # in eval mode these return their input
            readers += node.users
        elif module is not None and getattr(module, "inplace", False):
            outside = copy.copy(module)
            outside.inplace = False  # type: ignore[assignment]  # a setting of activation modules, not a tensor
            node.target = f"start_{node.name}"
            tail.add_submodule(node.target, outside)
        elif keywords.get("inplace"):
            node.update_kwarg("inplace", False)
    tail.recompile()
    return tail
