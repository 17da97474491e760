"""A graph from two recordings of a network: what differs between them depends on the batch size."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from stochx.engine.modes import frozen_weights
from stochx.engine.network.recording import Recording, Step, Stored, UnrecordableError, Value, mapped, restored

BATCHES = 2, 3


@dataclass(frozen=True)
class OfBatch:
    """A number that depends on the batch size N: slope * N + offset."""

    slope: int
    offset: int


def record(network: nn.Module, x: Tensor, is_leaf: Callable[[nn.Module, str], bool], contexts: Any) -> fx.GraphModule:
    """Return `network` as a graph for images of the shape, type and device of x (N, C, H, W), and any batch size.

    Constants are stored in `network`. Raises `UnrecordableError`.
    """
    runs = []
    for count in BATCHES:
        draw = torch.Generator(x.device).manual_seed(count)
        images = torch.rand((count, *x.shape[1:]), generator=draw, dtype=x.dtype, device=x.device)
        with torch.enable_grad(), restored(network), frozen_weights(network):  # nothing is kept for a backward pass
            recording = Recording(network, is_leaf, contexts)
            runs.append((recording, recording.run(images)))
    (first, result), (second, other) = runs
    if len(first.steps) != len(second.steps):
        raise UnrecordableError("its operations depend on the values of the images")
    steps = [
        Step(a.op, same(a.target, b.target), same(a.args, b.args), same(a.kwargs, b.kwargs), a.stack, a.out, a.writes)
        for a, b in zip(first.steps, second.steps, strict=True)
    ]
    return _Builder(network, steps, first.active).build(same(result, other))


def same(a: Any, b: Any) -> Any:
    """Return what two runs have in common: `a`, with numbers that differ as functions of the batch size."""
    if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        return (list if isinstance(a, list) else tuple)(same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: same(a[key], b[key]) for key in a}
    if isinstance(a, slice) and isinstance(b, slice):
        return slice(*same((a.start, a.stop, a.step), (b.start, b.stop, b.step)))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a is b or (not a.requires_grad and a.shape == b.shape and torch.equal(a, b)):
            return a
        raise UnrecordableError("a part of it is no function of torch, or has a backward of its own")
    if type(a) is int and type(b) is int and a != b:
        slope = (b - a) // (BATCHES[1] - BATCHES[0])
        return OfBatch(slope, a - slope * BATCHES[0])
    if type(a) is type(b) and (a is b or a == b):
        return a
    raise UnrecordableError("its operations depend on the values of the images, or on the batch size")


class _Builder:
    """Makes a graph from steps: constants are what depends on neither images nor weights nor the batch size."""

    def __init__(self, network: nn.Module, steps: Sequence[Step], active: set[int]) -> None:
        self.network, self.steps, self.active = network, steps, active
        self.graph = fx.Graph()
        self.nodes: dict[object, fx.Node] = {-1: self.graph.placeholder("x")}
        self.constant = set[int]()

    def build(self, result: Any) -> fx.GraphModule:
        for index, step in enumerate(self.steps):
            if self._is_constant(step):
                self.constant.add(index)
                continue
            args, kwargs = mapped(step.args, self.argument), mapped(step.kwargs, self.argument)
            if step.writes and isinstance(first := step.args[0], Value) and first.step in self.constant:
                args = (self.graph.call_method("clone", (args[0],)), *args[1:])  # or the next run would find it changed
            node = self.graph.create_node(step.op, step.target, args, kwargs)
            node.meta["nn_module_stack"] = step.stack
            self.nodes[index] = node
        self.graph.output(mapped(result, self.argument))
        made = fx.GraphModule(self.network, self.graph)
        made.graph.eliminate_dead_code()
        made.recompile()
        return made

    def _is_constant(self, step: Step) -> bool:
        leaves = list(leaves_in((step.args, step.kwargs)))
        moving = (OfBatch, Stored)
        return step.op != "call_module" and not any(
            isinstance(leaf, moving) or (isinstance(leaf, Value) and leaf.step not in self.constant) for leaf in leaves
        )

    def argument(self, leaf: Any) -> Any:
        """Return the node or plain value for a leaf of a step's arguments."""
        if isinstance(leaf, Value):
            if leaf.step in self.constant:
                return self._stored_constant(at(self.steps[leaf.step].out, leaf.path))
            node = self.nodes[leaf.step]
            for place in leaf.path:
                node = self._once((node, place), operator.getitem, (node, place))
            return node
        if isinstance(leaf, Stored):
            if leaf not in self.nodes:
                self.nodes[leaf] = self.graph.get_attr(leaf.name)
            return self.nodes[leaf]
        if isinstance(leaf, OfBatch):
            return self._number(leaf)
        return self._stored_constant(leaf) if isinstance(leaf, Tensor) else leaf

    def _stored_constant(self, tensor: Tensor) -> fx.Node:
        key = ("constant", id(tensor))
        if key not in self.nodes:
            name = f"_constant_{len(self.nodes)}"
            self.network.register_buffer(name, tensor.detach(), persistent=False)
            self.nodes[key] = self.graph.get_attr(name)
        return self.nodes[key]

    def _number(self, number: OfBatch) -> fx.Node:
        shape = self._once("shape", getattr, (self.nodes[-1], "shape"))
        node = self._once("batch", operator.getitem, (shape, 0))
        if number.slope != 1:
            node = self._once(("slope", number.slope), operator.mul, (node, number.slope))
        return self._once(number, operator.add, (node, number.offset)) if number.offset else node

    def _once(self, key: object, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        if key not in self.nodes:
            self.nodes[key] = self.graph.call_function(function, args)
            if isinstance(source := args[0], fx.Node) and "nn_module_stack" in source.meta:
                self.nodes[key].meta["nn_module_stack"] = source.meta["nn_module_stack"]
        return self.nodes[key]


def leaves_in(tree: Any) -> Iterator[Any]:
    """Yield the leaves of a tree."""
    found: list[Any] = []
    mapped(tree, found.append)
    yield from found


def at(tree: Any, path: tuple[int, ...]) -> Any:
    """Return the item of a tree at a place."""
    for place in path:
        tree = tree[place]
    return tree
