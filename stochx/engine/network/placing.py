"""The place on the image of values that a traced network has cut into windows, patches or heads."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from stochx.engine.network.balanced_kinds import MOVES
from stochx.engine.network.graph import computed
from stochx.engine.network.positions import axis_of, to_maps

Values = dict[fx.Node, Any]


def put_back(graph: fx.GraphModule, node: fx.Node, term: Tensor, values: Values) -> Tensor | None:
    """Return maps (N, C, h, w) with the sum of `term`, shaped as the value of `node`; None if it has no positions.

    Windows and patches are moved to the nearest value that has maps: those that they are joined to, or were cut from.
    Padding takes its share with it. `values` are those of all operations, or empty tensors of their shapes.
    """
    images = next(values[n].shape for n in graph.graph.nodes if n.op == "placeholder")
    seen, waiting = {node}, [(node, term)] if term.dim() > 2 else []
    while waiting:
        here, part = waiting.pop(0)
        final = here is node or not all(map(_moves, here.users))  # and no map that is still shifted or padded
        maps = to_maps(graph, here, part, values) if final and len(part) == images[0] else None
        if maps is not None and (axis_of(graph, here) == "second" or _is_whole(maps.shape[2:], images[2:])):
            return maps
        for other, moved in (*_ahead(graph, here, part, values), *_back(graph, here, part, values)):
            if other not in seen:
                seen.add(other)
                waiting.append((other, moved))
    return None


def _is_whole(grid: torch.Size, image: torch.Size) -> bool:
    """Return True for a grid with the proportions of the image, but for a rounded side; windows have others."""
    return abs(grid[0] * image[1] - grid[1] * image[0]) <= max(image)


def _ahead(graph: fx.GraphModule, node: fx.Node, part: Tensor, values: Values) -> Iterator[tuple[fx.Node, Tensor]]:
    """Yield the operations that read `node` and keep all of it, with the part at their places."""
    for user in node.users:
        like = values.get(user)
        if not isinstance(like, Tensor):
            continue
        if _moves(user):
            if user.all_input_nodes[0] is node and (like.numel() == part.numel() or _pads(user)):
                yield user, computed(user, values | {node: part})
        elif like.shape == part.shape:
            yield user, part
        elif axis_of(graph, user) == "last" and like.shape[:-1] == part.shape[:-1]:
            yield user, _spread(part, like)


def _back(graph: fx.GraphModule, node: fx.Node, part: Tensor, values: Values) -> Iterator[tuple[fx.Node, Tensor]]:
    """Yield the operations that `node` reads, with the part at the places that it came from."""
    if _moves(node):
        source, operation = node.all_input_nodes[0], [node]
        while not isinstance(values.get(source), Tensor):  # one of several pieces: what split them moves too
            if not _moves(source):
                return
            source, operation = source.all_input_nodes[0], [source, *operation]
        yield source, _returned(source, operation, part, values)
        return
    for source in node.all_input_nodes:
        like = values.get(source)
        if not isinstance(like, Tensor) or source.op == "get_attr":
            continue
        if like.shape == part.shape:
            yield source, part
        elif axis_of(graph, node) == "last" and like.shape[:-1] == part.shape[:-1]:
            yield source, _spread(part, like)


def _moves(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and (node.target in MOVES or node.target is F.pad)


def _pads(node: fx.Node) -> bool:
    """Return True for padding, and for slices, which leave it out; numbers and pieces leave out what has a place."""
    if node.target is not operator.getitem:
        return node.target is F.pad
    index: Any = node.args[1]
    return all(isinstance(item, slice) or item is Ellipsis for item in (index if isinstance(index, tuple) else [index]))


def _spread(part: Tensor, like: Tensor) -> Tensor:
    """Return the sum over channels, the last axis, in equal parts on the channels of `like`."""
    return (part.sum(-1, keepdim=True) / like.shape[-1]).expand(like.shape)


def _returned(source: fx.Node, path: list[fx.Node], part: Tensor, values: Values) -> Tensor:
    """Return `part` at the places where the operations of `path` took it from."""

    def moved(value: Tensor) -> Tensor:
        found = values | {source: value}
        for node in path:
            found[node] = computed(node, found)
        out: Tensor = found[path[-1]]
        return out

    start = part.new_zeros(values[source].shape, requires_grad=True)
    with torch.enable_grad():
        (returned,) = torch.autograd.grad(moved(start), start, part)
    return returned
