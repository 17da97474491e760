"""Values with positions inside a traced network: maps (N, C, h, w), channels last (N, h, w, C), or tokens (N, T, C).

Tokens are the positions of a grid, row by row, after those without a position, such as a class token.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.network.graph import SUMS, last_convolution
from stochx.errors import InputError

PREFIXES = 8  # tokens without a position, at most: class, distillation, registers
RESIDUAL = SUMS | {"add", "add_"}  # with the methods of tensors
LAST_AXIS = (nn.Linear, nn.LayerNorm)  # work on the last axis of tokens and of channels-last maps
SECOND_AXIS = (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.GroupNorm)
MOVING: frozenset[object] = frozenset({"permute", "transpose", "reshape", "view", "flatten", torch.permute})
MOVING |= {torch.transpose, torch.reshape, torch.flatten, operator.getitem}


def late_layer(graph: fx.GraphModule, x: Tensor, target: Tensor) -> fx.Node | None:
    """Return the operation whose value a class is explained by: the last one with positions that matter.

    For convolutional networks this is what follows the last convolution. Where layer norms work on tokens or channels,
    it is the last residual sum or norm before the network's final norm that a logit of x (1, C, H, W) depends on
    through its positions: with a class token, what the last block mixes positions from. None without a convolution.
    """
    nodes = list[fx.Node](graph.graph.nodes)
    norms = [node for node in nodes if _is_norm(graph, node)]
    if not norms:
        return last_convolution(graph)
    with torch.enable_grad():
        recorder = Recorder(graph, None)
        logits = recorder.run(x.detach().clone().requires_grad_())
    values = recorder.values
    sums = [node for node in nodes if _is_residual(node, values)]
    candidates = [node for node in nodes if node in sums or node in norms]
    late: fx.Node | None = None
    while candidates and sums and candidates[-1] is not sums[-1]:
        candidates.pop()  # the final norm
    candidates = [n for n in candidates if isinstance(values.get(n), Tensor) and values[n].requires_grad]
    score = logits.gather(1, target[:1, None]).sum()
    slopes = torch.autograd.grad(score, [values[n] for n in candidates], allow_unused=True) if candidates else ()
    for node, slope in reversed(list(zip(candidates, slopes, strict=True))):
        maps = to_maps(graph, node, torch.zeros_like(values[node]) if slope is None else slope, values)
        if maps is not None and maps.shape[2] * maps.shape[3] > 1:
            late = late or node
            if maps.abs().max() > 0:
                return node
    return late or last_convolution(graph)  # a last layer of zeros has no slopes


def to_maps(graph: fx.GraphModule, node: fx.Node, value: Tensor, values: dict[fx.Node, Any]) -> Tensor | None:
    """Return `value`, shaped as the value of `node`, as maps (N, C, h, w); None if it has no positions.

    `values` are those of all operations, for images of the same size.
    """
    if value.dim() == 4:
        return value.permute(0, 3, 1, 2) if _is_channels_last(graph, node, values) else value
    if value.dim() != 3:
        return None
    grid = _grid(graph, node, value.shape[1], values)
    if grid is None:
        return None
    height, width = grid
    return value[:, value.shape[1] - height * width :].transpose(1, 2).reshape(len(value), -1, height, width)


def name_of(node: fx.Node) -> str:
    """Return the name of the module that an operation belongs to, or of the operation."""
    names = [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name]
    return str(names[-1]) if names else node.name


class Recorder(fx.Interpreter):
    """Runs a traced network and records values; that of `leaf`, if given, as a leaf of the gradient."""

    def __init__(self, graph: fx.GraphModule, leaf: fx.Node | None) -> None:
        super().__init__(graph)
        self.leaf = leaf
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if n is self.leaf and isinstance(out, Tensor):
            out = out.detach().requires_grad_()
        self.values[n] = out
        return out.clone() if isinstance(out, Tensor) and out.is_floating_point() else out  # others work in place


def _is_norm(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), nn.LayerNorm)
    return node.target is F.layer_norm


def _is_residual(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Return True for a sum of two values of one shape that depend on the image."""
    parts = [values.get(n) for n in node.all_input_nodes]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.requires_grad]
    return node.target in RESIDUAL and len(tensors) == 2 and tensors[0].shape == tensors[1].shape


def _is_channels_last(graph: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Tell the axis of channels from the layers that read or made a value, through operations that keep its axes."""

    def keeps_axes(other: fx.Node) -> bool:
        value = values.get(other)
        return other.target not in MOVING and isinstance(value, Tensor) and value.dim() == 4

    for step in (_readers, _makers):
        seen, waiting = {node}, [node]
        while waiting:
            now = waiting.pop(0)
            if step is _makers or now is not node:
                axis = _axis_of(graph, now)
                if axis:
                    return axis == "last"
                if not keeps_axes(now):
                    continue
            more = [n for n in step(now) if n not in seen]
            seen.update(more)
            waiting += more
    return False


def _readers(node: fx.Node) -> Iterable[fx.Node]:
    return node.users


def _makers(node: fx.Node) -> Iterable[fx.Node]:
    return node.all_input_nodes


def _axis_of(graph: fx.GraphModule, node: fx.Node) -> str:
    """Return the axis that a layer treats as channels, `last` or `second`; empty for other operations."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        own = type(module).__mro__
        if isinstance(module, LAST_AXIS) and not any("2d" in kind.__name__ for kind in own):
            return "last"
        return "second" if isinstance(module, SECOND_AXIS) else ""
    if node.target in (F.layer_norm, F.linear):
        return "last"
    return "second" if node.target in (F.conv2d, F.batch_norm, F.adaptive_avg_pool2d, F.avg_pool2d) else ""


def _grid(graph: fx.GraphModule, node: fx.Node, tokens: int, values: dict[fx.Node, Any]) -> tuple[int, int] | None:
    """Return (h, w) of tokens: those of the nearest earlier maps with as many positions, or a few less."""
    best: tuple[int, tuple[int, int]] | None = None
    for other in graph.graph.nodes:
        value = values.get(other)
        if isinstance(value, Tensor) and value.dim() == 4:
            shape = value.shape[1:3] if _is_channels_last(graph, other, values) else value.shape[2:]
            spare = tokens - shape[0] * shape[1]
            if 0 <= spare <= PREFIXES and shape[0] * shape[1] > 1 and (best is None or spare <= best[0]):
                best = spare, (int(shape[0]), int(shape[1]))
        if other is node:
            break
    return None if best is None else best[1]


def maps_or_error(graph: fx.GraphModule, node: fx.Node, value: Tensor, values: dict[fx.Node, Any]) -> Tensor:
    """`to_maps`; raises `InputError` for a value without positions."""
    maps = to_maps(graph, node, value, values)
    if maps is None:
        raise InputError(f"`{name_of(node)}` returns no maps and no tokens", "choose another layer with `layer=`")
    return maps
