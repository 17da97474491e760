"""Values with positions inside a traced network: maps (N, C, h, w), channels last (N, h, w, C), or tokens (N, T, C).

Tokens are the positions of a grid, row by row, after those without a position, such as a class token.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.network import linearised
from stochx.errors import InputError

PREFIXES = 8  # tokens without a position, at most: class, distillation, registers
LAST_AXIS = (nn.Linear, nn.LayerNorm, nn.RMSNorm)  # work on the last axis of tokens and of channels-last maps
LAST_NORMS = {F.layer_norm, F.rms_norm, linearised.layer_norm, linearised.rms_norm}
LAST_AXIS_CALLS = {F.linear, *LAST_NORMS}
SECOND_AXIS = (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.GroupNorm)
MOVING: frozenset[object] = frozenset({"permute", "transpose", "reshape", "view", "flatten", torch.permute})
MOVING |= {torch.transpose, torch.reshape, torch.flatten, operator.getitem}


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


_axes: WeakKeyDictionary[fx.GraphModule, dict[str, int]] = WeakKeyDictionary()


def batch_axes(graph: fx.GraphModule, x: Tensor) -> dict[str, int]:
    """Return the axis of the images by the name of an operation: the one that grows with their number.

    It is the second in tokens (T, N, C), which torch's transformers take by default.
    """
    if graph not in _axes:
        runs = [Recorder(graph, None) for _ in range(2)]
        with torch.no_grad(), torch.random.fork_rng():
            for count, run in enumerate(runs, 1):
                run.run(x[:1].expand(count, *x.shape[1:]))
        _axes[graph] = {}
        for node, one in runs[0].values.items():
            if isinstance(one, Tensor):
                pairs = zip(one.shape, runs[1].values[node].shape, strict=True)
                _axes[graph][node.name] = next((axis for axis, (a, b) in enumerate(pairs) if a != b), 0)
    return _axes[graph]


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
                axis = axis_of(graph, now)
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


def axis_of(graph: fx.GraphModule, node: fx.Node) -> str:
    """Return the axis that a layer treats as channels, `last` or `second`; empty for other operations."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        module = module.module if isinstance(module, linearised.Norm) else module
        own = type(module).__mro__
        if isinstance(module, LAST_AXIS) and not any("2d" in kind.__name__ for kind in own):
            return "last"
        return "second" if isinstance(module, SECOND_AXIS) else ""
    if node.target in LAST_AXIS_CALLS:
        return "last"
    return "second" if node.target in (F.conv2d, F.batch_norm, F.adaptive_avg_pool2d, F.avg_pool2d) else ""


def _grid(graph: fx.GraphModule, node: fx.Node, tokens: int, values: dict[fx.Node, Any]) -> tuple[int, int] | None:
    """Return (h, w) of tokens: those of the nearest earlier maps with as many positions, or a few less.

    Maps that a convolution made, such as patches, come first, and patches that were cut out of the image otherwise:
    heads of attention have four axes too. Windows and patches are no maps, but images of a larger batch.
    """
    best: tuple[bool, int, tuple[int, int]] | None = None
    images = next(values[n].shape for n in graph.graph.nodes if n.op == "placeholder")
    for other in graph.graph.nodes:
        value = values.get(other)
        if isinstance(value, Tensor) and value.dim() == 4 and len(value) == images[0]:
            unsure = axis_of(graph, other) != "second"
            shape = value.shape[1:3] if _is_channels_last(graph, other, values) else value.shape[2:]
            spare = tokens - shape[0] * shape[1]
            if 0 <= spare <= PREFIXES and shape[0] * shape[1] > 1 and (best is None or (unsure, spare) <= best[:2]):
                best = unsure, spare, (int(shape[0]), int(shape[1]))
        if other is node:
            break
    patches = _patches(tokens, *images[2:]) if best is None or best[0] else None
    return patches or (None if best is None else best[2])


def _patches(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Return the grid of square patches of an image that has as many positions, or a few less."""
    sides = [side for side in range(1, min(height, width) + 1) if height % side == width % side == 0]
    grids = [(height // side, width // side) for side in sides]
    fitting = [grid for grid in grids if 0 <= tokens - math.prod(grid) <= PREFIXES and math.prod(grid) > 1]
    return max(fitting, key=math.prod, default=None)


def maps_or_error(graph: fx.GraphModule, node: fx.Node, value: Tensor, values: dict[fx.Node, Any]) -> Tensor:
    """`to_maps`; raises `InputError` for a value without positions."""
    maps = to_maps(graph, node, value, values)
    if maps is None:
        raise InputError(f"`{name_of(node)}` returns no maps and no tokens", "choose another layer with `layer=`")
    return maps
