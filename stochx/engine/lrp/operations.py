"""Propagation of relevance through each kind of operation: the table that `tape` uses."""

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
    """A kind of operation: `send` returns the relevance of its inputs, from their values or from their shapes alone."""

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
    """Return the input of a layer, and the layer."""
    module = tape.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Linear | nn.Conv2d):
        mode = getattr(module, "padding_mode", "zeros")
        if mode != "zeros":
            _refuse(tape, node, f"{mode} padding")
        return tape.signals(node)[0], Layer.of(module)
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    arguments: dict[str, Any] = dict(zip(names, node.args, strict=False)) | node.kwargs
    source = arguments.pop("input")
    nodes = [value for value in arguments.values() if isinstance(value, fx.Node)]
    settings = {name: tape.values[value] if isinstance(value, fx.Node) else value for name, value in arguments.items()}
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
    if (source := tape.signals(node)[0]).target in PIECES:  # one of several pieces: skip the operation that split them
        path, source = [source, node], tape.signals(source)[0]

    def operation(value: Tensor) -> Tensor:
        values = {**tape.values, source: value}
        for step in path:
            values[step] = tape.run(step, values)
        out: Tensor = values[node]
        return out

    return [(source, through(relevance, tape.like(source, relevance), operation, normed))]


def _split(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    arguments: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    sizes = [tape.shapes[n][arguments.get("dim", 0)] for n in arguments["tensors"]]
    return zip(arguments["tensors"], torch.split_with_sizes(relevance, sizes, arguments.get("dim", 0)), strict=True)


def _sum(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    if node in tape.raw and len(tape.signals(node)) == 1:  # a shift of the image, such as a normalisation
        return _gate(tape, node, relevance)
    arguments: dict[str, Any] = dict(zip(("input", "other"), node.args, strict=False)) | node.kwargs
    sign = -1 if node.target in DIFFERENCES else 1
    factors = {"input": 1, "other": sign * arguments.get("alpha", 1)}
    parts = {name: (arguments[name], factor) for name, factor in factors.items()}
    summands = [(tape.values[n] if isinstance(n, fx.Node) else relevance.new_tensor(n)) * f for n, f in parts.values()]
    shares = share(relevance, summands, summands[0] + summands[1])
    return [(n, part) for (n, _), part in zip(parts.values(), shares, strict=True) if isinstance(n, fx.Node)]


def _gate(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Send all relevance to the signal, the input with the shape of the result, and none to gates or numbers."""
    signals = [n for n in tape.signals(node) if tape.shapes[n] == relevance.shape]
    if len(signals) != 1:
        _refuse(tape, node, "no input of its own shape, or several")
    return [(signals[0], relevance)]


def _unknown(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> NoReturn:
    _refuse(tape, node)


def _refuse(tape: RelevanceTape, node: fx.Node, why: str = "") -> NoReturn:
    target = type(tape.modules[str(node.target)]) if node.op == "call_module" else node.target
    operation = f"`{getattr(target, '__name__', target)}`" + (f" with {why}" if why else "")
    raise InputError(f"lrp has no rule for {operation}, at `{node.name}`", "use `ig`, `smoothgrad` or `smoothtaylor`")


LAYER = Kind(_layer, needs_values=True)
PASS, ABSORB, MOVE, SPLIT, GATE, UNKNOWN = map(Kind, (_pass, _absorb, _move, _split, _gate, _unknown))
WIN, MEAN, SUM = Kind(_move, needs_values=True), Kind(_mean, needs_values=True), Kind(_sum, needs_values=True)

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish)
BOUNDED = (nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign)
# Relevance passes unchanged through norms that no convolution can absorb, such as those before convolutions.
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
# Functions, and names of methods.
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


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Kind:
    """Return the kind of operation of `node`."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return next((kind for types, kind in MODULES if isinstance(module, types)), UNKNOWN)
    return CALLS.get(node.target, UNKNOWN)
