"""Relevance through operations that move, copy, pool or join values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from stochx.engine.lrp.kinds import Sent, refuse
from stochx.engine.lrp.rules import through
from stochx.engine.network.graph import arguments

if TYPE_CHECKING:
    from stochx.engine.lrp.tape import RelevanceTape

# Functions, and names of methods, that return several tensors.
PIECES: set[object] = {
    torch.chunk,
    torch.split,
    torch.split_with_sizes,
    torch.unbind,
    torch.tensor_split,
    torch.max,
    "chunk",
    "split",
    "split_with_sizes",
    "unbind",
    "tensor_split",
    "max",
}


def send_on(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Pass relevance on unchanged: elementwise functions, and norms that only rescale."""
    return [(tape.signals(node)[0], relevance)]


def move(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Send relevance back to where the values came from; that of copies is summed."""
    return _follow(tape, node, relevance, normed=False)


def mean(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Share relevance in proportion to the parts of a mean, a weighted sum, or another function of degree one."""
    return _follow(tape, node, relevance, normed=True)


def _follow(tape: RelevanceTape, node: fx.Node, relevance: Tensor, normed: bool) -> Sent:
    path, source = [node], tape.signals(node)[0]
    if source not in tape.shapes:  # one of several pieces: skip what split them
        if source.target not in PIECES:
            refuse(tape, source)
        path, source = [source, node], tape.signals(source)[0]

    # What else it reads of values that were not recorded is their shape.
    shaped = {n: tape.like(n, relevance) for step in path for n in step.all_input_nodes if n in tape.shapes}

    def operation(value: Tensor) -> Tensor:
        values = {**tape.values, **shaped, source: value}
        for step in path:
            values[step] = tape.run(step, values)
        out: Tensor = values[node]
        return out

    return [(source, through(relevance, tape.like(source, relevance), operation, normed, tape.rules.stabiliser))]


def split(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Give each part of a concatenation its own relevance."""
    given = arguments(node, "tensors", "dim")
    axis = given.get("dim", given.get("axis", 0))
    sizes = [tape.shapes[n][axis] for n in given["tensors"]]
    return zip(given["tensors"], torch.split_with_sizes(relevance, sizes, axis), strict=True)


def unstack(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Give each part of a stack its own relevance."""
    given: dict[str, Any] = arguments(node, "tensors", "dim")
    return zip(given["tensors"], torch.unbind(relevance, given.get("dim", 0)), strict=True)


def choose(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Send relevance to the value that a constant condition chose."""
    condition, *sides = (arguments(node, "condition", "input", "other")[n] for n in ("condition", "input", "other"))
    mask = tape.values[condition]
    for side, chosen in zip(sides, (mask, ~mask), strict=True):
        if isinstance(side, fx.Node):
            yield side, (relevance * chosen).sum_to_size(tape.shapes[side])


def overwrite(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Give a part that was overwritten to what overwrote it, and the rest to what was there."""
    before, index, value = arguments(node, "x", "index", "value").values()
    place: Any = fx.node.map_arg(index, tape.values.__getitem__)
    if isinstance(value, fx.Node):
        yield value, relevance[place].sum_to_size(tape.shapes[value])
    rest = relevance.clone()
    rest[place] = 0
    yield before, rest
