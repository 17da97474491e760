"""How relevance passes each kind of operation: the table that `propagate` walks a network with."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from stochx.engine.lrp.rules import Layer, share, through
from stochx.errors import InputError

if TYPE_CHECKING:
    from stochx.engine.lrp.tape import RelevanceTape

Sent = Iterable[tuple[fx.Node, Tensor]]


@dataclass(frozen=True)
class Kind:
    """What each input of an operation is sent, and whether that takes the inputs' values or only their shapes."""

    send: Callable[[RelevanceTape, fx.Node, Tensor], Sent]
    needs_values: bool = False


def _layer(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    source, layer = _weights(tape, node)
    rules = tape.rules
    if rules.first is not None and source in tape.raw:
        return [(source, rules.first(layer, tape.values[source], relevance, *tape.span(source)))]
    rule = rules.dense if layer.weight.dim() == 2 else rules.convolution
    return [(source, rule(layer, tape.values[source], relevance))]


def _weights(tape: RelevanceTape, node: fx.Node) -> tuple[fx.Node, Layer]:
    """The input of a layer, and the layer."""
    module = tape.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Linear | nn.Conv2d):
        mode = getattr(module, "padding_mode", "zeros")
        if mode != "zeros":
            _refuse(tape, node, f"{mode} padding")
        return tape.signals(node)[0], Layer.of(module)
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    source = given.pop("input")
    nodes = [value for value in given.values() if isinstance(value, fx.Node)]
    settings = {name: tape.values[value] if isinstance(value, fx.Node) else value for name, value in given.items()}
    dimensions = 4 if node.target in CONVOLUTIONS else 2
    if source not in tape.depends or not tape.depends.isdisjoint(nodes) or settings["weight"].dim() != dimensions:
        _refuse(tape, node, "weights that are not constant")
    if dimensions == 4:
        return source, Layer.convolution(**settings)
    return source, Layer.dense(**settings) if node.target is F.linear else Layer.dense(settings["weight"].mT)


def _pass(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    return [(tape.signals(node)[0], relevance)]


def _absorb(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    return []


def _move(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    return _follow(tape, node, relevance, normed=False)


def _mean(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    return _follow(tape, node, relevance, normed=True)


def _follow(tape: RelevanceTape, node: fx.Node, relevance: Tensor, normed: bool) -> Sent:
    path = [node]
    if (source := tape.signals(node)[0]).target in PIECES:  # one of several pieces: past the operation that cut them
        path, source = [source, node], tape.signals(source)[0]

    def operation(value: Tensor) -> Tensor:
        known = {**tape.values, source: value}
        for step in path:
            known[step] = tape.run(step, known)
        out: Tensor = known[node]
        return out

    return [(source, through(relevance, tape.like(source, relevance), operation, normed))]


def _split(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    given: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    sizes = [tape.shapes[n][given.get("dim", 0)] for n in given["tensors"]]
    return zip(given["tensors"], torch.split_with_sizes(relevance, sizes, given.get("dim", 0)), strict=True)


def _sum(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    if node in tape.raw and len(tape.signals(node)) == 1:  # a shift of the image, as when it is normalised
        return _gate(tape, node, relevance)
    given: dict[str, Any] = dict(zip(("input", "other"), node.args, strict=False)) | node.kwargs
    sign = -1 if outside(node.target) in DIFFERENCES else 1
    factors = {"input": 1, "other": sign * given.get("alpha", 1)}
    parts = {name: (given[name], factor) for name, factor in factors.items()}
    summands = [(tape.values[n] if isinstance(n, fx.Node) else relevance.new_tensor(n)) * f for n, f in parts.values()]
    shares = share(relevance, summands, summands[0] + summands[1])
    return [(n, part) for (n, _), part in zip(parts.values(), shares, strict=True) if isinstance(n, fx.Node)]


def _gate(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """All to the signal, the input that has the result's shape, and nothing to a gate or a number."""
    signals = [n for n in tape.signals(node) if tape.shapes[n] == relevance.shape]
    if len(signals) != 1:
        _refuse(tape, node, "no signal of its own shape, or two")
    return [(signals[0], relevance)]


def _unknown(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> NoReturn:
    _refuse(tape, node)


def _refuse(tape: RelevanceTape, node: fx.Node, why: str = "") -> NoReturn:
    target = type(tape.modules[str(node.target)]) if node.op == "call_module" else node.target
    what = f"`{getattr(target, '__name__', target)}`" + (f" with {why}" if why else "")
    raise InputError(f"lrp has no rule for {what}, at `{node.name}`", "use `ig`, `smoothgrad` or `smoothtaylor`")


LAYER = Kind(_layer, needs_values=True)
PASS, ABSORB, MOVE, SPLIT, GATE, UNKNOWN = map(Kind, (_pass, _absorb, _move, _split, _gate, _unknown))
WIN, MEAN, SUM = Kind(_move, needs_values=True), Kind(_mean, needs_values=True), Kind(_sum, needs_values=True)

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish)
BOUNDED = (nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign)
# Norms that no convolution could absorb, as before DenseNet's, are passed unchanged.
SILENT = (nn.Identity, nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
MODULES: list[tuple[tuple[type[nn.Module], ...], Kind]] = [
    ((nn.Linear, nn.Conv2d), LAYER),
    (ACTIVATIONS + BOUNDED + SILENT, PASS),
    ((nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle), MOVE),
    ((nn.MaxPool2d, nn.AdaptiveMaxPool2d), WIN),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d), MEAN),
]

CONVOLUTIONS = {F.conv2d, torch.conv2d}
DIFFERENCES = {operator.sub, torch.sub, "sub"}
PIECES = {torch.chunk, torch.split, torch.unbind, torch.tensor_split, "chunk", "split", "unbind", "tensor_split"}
# Functions and, as texts, methods.
CALLS: dict[object, Kind] = {
    **dict.fromkeys({F.linear, operator.matmul, torch.matmul, "matmul"} | CONVOLUTIONS, LAYER),
    **dict.fromkeys((F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, F.hardtanh, F.softplus), PASS),
    **dict.fromkeys((torch.relu, torch.sigmoid, torch.tanh, torch.clamp, "relu", "sigmoid", "tanh", "clamp"), PASS),
    **dict.fromkeys((F.dropout, F.dropout2d, stochastic_depth, F.batch_norm, "contiguous", "clone"), PASS),
    **dict.fromkeys((torch.randn_like, torch.rand_like, torch.zeros_like, torch.ones_like), ABSORB),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze), MOVE),
    **dict.fromkeys((torch.unsqueeze, torch.flip, F.pad, F.pixel_shuffle, operator.getitem), MOVE),
    **dict.fromkeys(("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "flip"), MOVE),
    **dict.fromkeys((F.max_pool2d, F.adaptive_max_pool2d), WIN),
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, torch.sum, "mean", "sum"), MEAN),
    **dict.fromkeys({operator.add, torch.add, "add"} | DIFFERENCES, SUM),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), SPLIT),
    **dict.fromkeys((operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div"), GATE),
}

OUTSIDE: dict[object, object] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}


def outside(target: object) -> object:
    """The operation that computes what `target` does, but not in place; methods are texts."""
    return target.rstrip("_") if isinstance(target, str) else OUTSIDE.get(target, target)


def is_in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether `node` overwrites its first input."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    calls = node.op in ("call_function", "call_method")
    return bool(getattr(module, "inplace", node.kwargs.get("inplace", calls and outside(node.target) != node.target)))


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Kind:
    """How relevance passes `node`."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return next((kind for types, kind in MODULES if isinstance(module, types)), UNKNOWN)
    return CALLS.get(outside(node.target), UNKNOWN)
