"""Which value of a network is its feature maps, and how that value holds them, from what its modules do with one image.

A network's maps are the last value with positions before they are pooled, flattened or read through one token. Networks
hold them as (N, C, h, w), channels last as (N, h, w, C), or as tokens (N, T, C): positions row by row, after tokens
without a position (class, distillation, registers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.classifier import Classifier
from stochx.engine.network.positions import PREFIXES
from stochx.engine.network.visits import Visit, channel_axis

HALVINGS = 6  # of a grid, at most, between a network's first maps and its last tokens


@dataclass(frozen=True)
class Layout:
    """How a value holds maps: `maps`, channels `last`, or `tokens`, of which the first `prefix` have no position.

    `rows`, `columns` is the grid of the positions.
    """

    kind: Literal["maps", "last", "tokens"]
    rows: int
    columns: int
    prefix: int = 0

    def maps(self, value: Any, rows: int | None = None) -> Any:
        """Return the value, a tensor or the node of a graph, as maps (N, C, h, w).

        `rows` is the height of a grid of tokens, by default the one that keeps its proportion.
        """
        if self.kind == "maps":
            return value
        if self.kind == "last":
            return value.permute(0, 3, 1, 2)
        rows = rows or self.rows_of(value.shape[1] - self.prefix)
        return value[:, self.prefix :].transpose(1, 2).unflatten(2, (rows, -1))

    def rows_of(self, positions: int) -> int:
        """Return the height of a grid with this number of positions and the same proportion."""
        return round(self.rows * math.sqrt(positions / (self.rows * self.columns)))


@dataclass(frozen=True)
class Place:
    """A module whose output is the maps."""

    module: str
    layout: Layout


def find_heads(model: Classifier, seen: Sequence[Visit]) -> list[str]:
    """Return the layers that make the logits, among the modules `seen`; none for a network that returns features."""
    heads = [visit for visit in seen if visit.is_head]
    if all(visit.made is not None and len(visit.made) == 1 for visit in heads):
        return [visit.name for visit in heads]
    if len(heads) == 1 and isinstance(heads[0].module, nn.Conv2d) and _makes_logits(model, heads[0].module):
        return [heads[0].name]
    return []


def _makes_logits(model: Classifier, layer: nn.Module) -> bool:
    """Return true if the logits are the mean over positions of what a convolution makes, also behind a ReLU."""
    made: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: made.append(output))
    try:
        out = model(torch.rand(model.blank().shape, generator=torch.Generator().manual_seed(0)).to(model.mean))
    finally:
        handle.remove()
    forms = [maps.mean((2, 3)) for maps in (made[0], made[0].relu())]
    return any(form.shape == out.shape and torch.allclose(form, out, rtol=1e-3, atol=1e-5) for form in forms)


def find_maps(model: Classifier, seen: Sequence[Visit], heads: Sequence[str]) -> Place | None:
    """Return the module whose output is the maps: of the modules `seen`, the last before the heads with positions.

    None where a layer joins the positions: one that reads them as one long vector, or covers them.
    """
    known = {name for name, _ in model.network.named_modules()}
    grids = list[tuple[int, int]]()
    place: Place | None = None
    values = 0  # of an image, at `place`
    joined = False
    for visit in seen:
        if visit.name in heads:
            break
        layout = _layout(visit, model.input_shape[1:], grids)
        if layout is not None and visit.name in known and visit.made is not None:
            place, values, joined = Place(visit.name, layout), math.prod(visit.made), False
        elif visit.is_layer and visit.read and math.prod(visit.read) == values:
            joined = joined or len(visit.read) == 1 or isinstance(visit.module, nn.Conv2d)
    return None if joined else place


def _layout(visit: Visit, size: Sequence[int], grids: list[tuple[int, int]]) -> Layout | None:
    """Return how the output of a module holds positions, if it has several; notes the `grids` of maps."""
    shape = visit.made or ()
    if len(shape) == 3:
        layout = _spatial(visit, shape, size)
        if layout is not None:
            grids.append((layout.rows, layout.columns))
    else:
        # Of linear layers of tokens the last may be the keys and values of a pooling by attention
        linear = any("Linear" in kind.__name__ for kind in type(visit.module).__mro__)
        layout = None if len(shape) != 2 or linear else _tokens(shape[0], grids)
    return layout if layout is not None and layout.rows * layout.columns > 1 else None


def _spatial(visit: Visit, shape: Sequence[int], size: Sequence[int]) -> Layout | None:
    """Tell the axis of channels from the proportions of the image, else from the layers; None for other values."""
    by_second, by_last = (_is_grid(*shape[axis : axis + 2], *size) for axis in (1, 0))
    on_last = visit.is_norm and channel_axis(visit, tuple(shape), ()) > 0
    if by_last and (on_last or not by_second):
        return Layout("last", shape[0], shape[1])
    if on_last or isinstance(visit.module, nn.Identity):  # of the heads of attention, or of maps that were seen
        return None
    convolves = any(isinstance(part, nn.Conv2d) for part in visit.module.modules())
    return Layout("maps", shape[1], shape[2]) if by_second or convolves else None


def _is_grid(rows: int, columns: int, height: int, width: int) -> bool:
    """Return true for the proportions of the image, but for a rounded side."""
    return abs(rows * width - columns * height) < max(height, width)


def _tokens(tokens: int, grids: Sequence[tuple[int, int]]) -> Layout | None:
    """Find the grid of tokens: that of earlier maps, or a half, a quarter, ... of it, with the fewest to spare."""
    fitting = [
        Layout("tokens", rows, columns, tokens - rows * columns)
        for height, width in reversed(grids)
        for halving in range(HALVINGS)
        for rows, columns in [(-(-height // 2**halving), -(-width // 2**halving))]
        if 0 <= tokens - rows * columns <= PREFIXES and rows * columns > 1
    ]
    return min(fitting, key=lambda layout: layout.prefix, default=None)
