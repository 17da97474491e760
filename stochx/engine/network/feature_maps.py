"""Which value of a network is its feature maps, and how that value holds them, from one pass with hooks.

A network's maps are the last value with positions before they are pooled, flattened or read through one token. Networks
hold them as (N, C, h, w), channels last as (N, h, w, C), or as tokens (N, T, C): positions row by row, after tokens
without a position (class, distillation, registers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.positions import PREFIXES
from stochx.engine.network.sites import LAYERS

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

        The grid of tokens has so many `rows`, by default as many as keep its proportion.
        """
        if self.kind == "maps":
            return value
        if self.kind == "last":
            return value.permute(0, 3, 1, 2)
        rows = rows or self.rows_of(value.shape[1] - self.prefix)
        return value[:, self.prefix :].transpose(1, 2).unflatten(2, (rows, -1))

    def rows_of(self, positions: int) -> int:
        """Return the rows of a grid with so many positions, of the same proportion."""
        return round(self.rows * math.sqrt(positions / (self.rows * self.columns)))


@dataclass(frozen=True)
class Place:
    """A module whose output is the maps."""

    module: str
    layout: Layout


@dataclass
class _Pass:
    """What the modules of a network took and returned, in the order in which they finished."""

    image: Tensor
    modules: dict[str, nn.Module]
    grids: list[tuple[int, int]] = field(default_factory=list)  # of maps so far, the latest last
    places: list[Place] = field(default_factory=list)  # that may be the network's maps
    values: int = 0  # in an image's value at the last of them
    joined: bool = False  # whether a layer has read it as one vector

    def leave(self, name: str, inputs: Sequence[Any], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        layout = self._layout(name, output)
        if layout is not None:
            self.places.append(Place(name, layout))
            self.values, self.joined = output[0].numel(), False
        elif inputs and isinstance(inputs[0], Tensor) and isinstance(self.modules[name], LAYERS):
            whole = inputs[0].shape[-1] == self.values or output.dim() == 4  # a convolution that covers the maps
            self.joined = self.joined or (whole and inputs[0][0].numel() == self.values)

    def _layout(self, name: str, value: Tensor) -> Layout | None:
        module = self.modules[name]
        if value.dim() == 4:
            layout = self._spatial(module, value.shape)
            if layout is not None:
                self.grids.append((layout.rows, layout.columns))
            return layout if layout is not None and layout.rows * layout.columns > 1 else None
        # Of linear layers of tokens the last may be the keys and values of a pooling by attention
        if value.dim() != 3 or any("Linear" in kind.__name__ for kind in type(module).__mro__):
            return None
        return self._tokens(value.shape[1])

    def _spatial(self, module: nn.Module, shape: Sequence[int]) -> Layout | None:
        """Tell the axis of channels from the proportions of the image, else from the layers; None for other values."""
        by_second, by_last = (self._is_grid(*shape[axis : axis + 2]) for axis in (2, 1))
        on_last = isinstance(module, nn.LayerNorm) and not any("2d" in kind.__name__ for kind in type(module).__mro__)
        if by_last and (on_last or not by_second):
            return Layout("last", shape[1], shape[2])
        if on_last or isinstance(module, nn.Identity):  # of the heads of attention, or of maps that were seen
            return None
        convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
        return Layout("maps", shape[2], shape[3]) if by_second or convolves else None

    def _is_grid(self, rows: int, columns: int) -> bool:
        """Return true for the proportions of the image, but for a rounded side."""
        height, width = self.image.shape[2:]
        return abs(rows * width - columns * height) < max(height, width)

    def _tokens(self, tokens: int) -> Layout | None:
        """Find the grid of tokens: that of earlier maps, or a half, a quarter, ... of it, with the fewest to spare."""
        fitting = [
            Layout("tokens", rows, columns, tokens - rows * columns)
            for height, width in reversed(self.grids)
            for halving in range(HALVINGS)
            for rows, columns in [(-(-height // 2**halving), -(-width // 2**halving))]
            if 0 <= tokens - rows * columns <= PREFIXES and rows * columns > 1
        ]
        return min(fitting, key=lambda layout: layout.prefix, default=None)


def find_maps(network: nn.Module, x: Tensor, classifier: Sequence[str]) -> Place | None:
    """Return the module that returns the maps of normalised images x (N, C, H, W), before the layers `classifier`.

    None where a layer joins the positions: one that reads them as one long vector.
    """
    known = dict(network.named_modules())
    seen = _Pass(x, known)
    over = False

    def enter(module: nn.Module, inputs: object) -> None:
        nonlocal over
        over = True

    def leave(name: str, inputs: Sequence[Any], output: object) -> None:
        if not over:
            seen.leave(name, inputs, output)

    handles = []
    for name, module in known.items():
        if name:
            handles.append(module.register_forward_hook(lambda _, i, output, name=name: leave(name, i, output)))
        if name in classifier:
            handles.append(module.register_forward_pre_hook(enter))
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen.places[-1] if seen.places and not seen.joined else None


def classifier_layers(network: nn.Module, x: Tensor) -> list[str]:
    """Return the layers that make the logits of x: the last one that runs, and a second head like it beside it.

    None of them if the network returns features, which no last layer has made.
    """
    ran: list[tuple[str, nn.Module, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.append((name, module, output)))
        for name, module in network.named_modules()
        if name and isinstance(module, LAYERS)
    ]
    try:
        out = network(x)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        return []
    name, last, made = ran[-1]
    if len(ran) > 1 and _are_heads(ran[-2][1], last):
        return [ran[-2][0], name]
    return [name] if _are_logits(made, out) else []


def _are_heads(one: nn.Module, other: nn.Module) -> bool:
    """Return true for two linear layers that cannot follow each other, with inputs and outputs of the same widths."""
    if not (isinstance(one, nn.Linear) and isinstance(other, nn.Linear)) or one is other:
        return False
    widths = (one.in_features, one.out_features)
    return widths == (other.in_features, other.out_features) and widths[0] != widths[1]


def _are_logits(made: Tensor, out: object) -> bool:
    """Return true if a network's output (N, K) is what its last layer made, up to scale, softmax, pooling or ReLU."""
    if not isinstance(out, Tensor) or made.dim() == 3:
        return False
    forms = [made] if made.dim() == 2 else [made.mean((2, 3)), made.relu().mean((2, 3))]
    if made.shape[1] == 1:  # one logit, or what was read from it
        return out.dim() == 2 and out.shape[1] <= 2
    return out.shape == forms[0].shape and any(bool((out.gather(1, f.argsort(1)).diff() >= 0).all()) for f in forms)
