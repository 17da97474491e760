"""Propagation of relevance through a traced network of any topology, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from stochx.engine.lrp import wiring
from stochx.engine.lrp.operations import SOFTMAX, kind_of
from stochx.engine.lrp.rules import STABILISER, Layer
from stochx.engine.network.graph import computed
from stochx.engine.network.inplace import out_of_place
from stochx.errors import InputError

Rule = Callable[[Layer, Tensor, Tensor], Tensor]
FirstRule = Callable[[Layer, Tensor, Tensor, Tensor, Tensor], Tensor]  # ... and the smallest and largest input


@dataclass(frozen=True)
class Rules:
    """The rule for each type of layer; `first`, if any, is for layers that read the image itself.

    `mlp` is for linear layers beside an activation, as `dense` if there is none. Attention weights are constant, or
    their softmax is expanded at its input. `stabiliser` is that of sums, products, means and norms.
    """

    dense: Rule
    convolution: Rule
    first: FirstRule | None = None
    mlp: Rule | None = None
    constant_attention: bool = True
    stabiliser: float = STABILISER


class RelevanceTape:
    """A forward pass on one batch that records the values that the propagation of relevance needs.

    `graph` comes from `graph.folded`; its modules are not changed. `output` holds the logits.
    """

    def __init__(self, graph: fx.GraphModule, x: Tensor, rules: Rules) -> None:
        self.graph, self.rules = out_of_place(graph), rules
        self.nodes = list(self.graph.graph.nodes)
        result = self.nodes[-1].args[0]
        if not isinstance(result, fx.Node):
            raise InputError("the network returns several outputs", "wrap it in a module that returns the logits")
        self.result = result
        self.modules = dict(self.graph.named_modules())
        self.kinds = {node: kind_of(node, self.modules) for node in self.nodes}
        self.depends: set[fx.Node] = set()  # nodes that depend on the image
        self.raw: set[fx.Node] = set()  # those of them before every layer with weights
        for node in self.nodes:
            if node.op == "placeholder" or self._carries(node):
                self.depends.add(node)
                if self.kinds[node].ranged and self.raw.issuperset(self.signals(node)):
                    self.raw.add(node)
        self.values: dict[fx.Node, Any] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        with torch.no_grad():
            self._forward(x)
        self.output: Tensor = self.values[result]

    def relevance(self, start: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Propagate the output's relevance `start` to the image; images lie between `low` and `high` (1, C, H, W).

        Recorded values are freed on the way. Raises `InputError` at an operation without a rule.
        """
        self.bounds = low, high
        waiting: dict[fx.Node, Tensor] = {self.result: start}
        with torch.no_grad():
            for node in reversed(self.nodes):
                relevance = waiting.pop(node, None)
                if relevance is not None and node.op == "placeholder":
                    return relevance
                parts = [] if relevance is None else self.kinds[node].send(self, node, relevance)
                for source, part in parts:
                    if source in self.depends:
                        waiting[source] = waiting[source] + part if source in waiting else part
                if node in self.depends:
                    self.values.pop(node, None)
        raise InputError("the network's output does not depend on its input", "check the model")

    def _carries(self, node: fx.Node) -> bool:
        """Return True if relevance of `node` has to go on to its inputs."""
        kind = self.kinds[node]
        sources = node.all_input_nodes[:1] if kind.unary else node.all_input_nodes
        if kind.constant or self.depends.isdisjoint(sources):
            return False
        return not (kind is SOFTMAX and self.rules.constant_attention and wiring.weighs(node, self.kinds))

    def is_gate(self, node: fx.Node) -> bool:
        """Return True if `node` comes from a sigmoid or a softmax, moved, scaled or shifted at most."""
        return wiring.is_gate(node, self.kinds, self.signals)

    def beside_activation(self, node: fx.Node) -> bool:
        """Return True if `node` is a layer of an MLP: it feeds or reads an activation."""
        return wiring.beside_activation(node, self.kinds, self.signals)

    def signals(self, node: fx.Node) -> list[fx.Node]:
        """Return the inputs of `node` that depend on the image."""
        return [n for n in node.all_input_nodes if n in self.depends]

    def like(self, node: fx.Node, relevance: Tensor) -> Tensor:
        """Return the value of `node`, or an arbitrary tensor of its shape if the value was not recorded."""
        return self.values[node] if node in self.values else relevance.new_empty(self.shapes[node])

    def run(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Compute `node` from `values`, not in place."""
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.graph)
        return computed(node, values, self.modules)

    def span(self, end: fx.Node) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value that the raw node `end` can take, for one image."""
        ends: list[Tensor] = []
        for bound in self.bounds:
            values = dict[fx.Node, Any]()
            for node in self.nodes[: self.nodes.index(end) + 1]:
                if node.op == "placeholder":
                    values[node] = bound
                elif (node in self.raw or node not in self.depends) and values.keys() >= {*node.all_input_nodes}:
                    values[node] = self.run(node, values)
            ends.append(values[end])
        return torch.minimum(*ends), torch.maximum(*ends)

    def _forward(self, x: Tensor) -> None:
        needed = {n for node in self.nodes for n in (self.signals(node) if self.kinds[node].needs_values else [])}
        needed |= {node for node in self.nodes if self.kinds[node].needs_output}
        last = {n: node for node in self.nodes for n in node.all_input_nodes}
        for node in self.nodes[:-1]:
            value = self.values[node] = x if node.op == "placeholder" else self.run(node, self.values)
            if isinstance(value, Tensor):
                self.shapes[node] = value.shape
            for n in node.all_input_nodes:
                if last[n] is node and n in self.depends - needed and _is_dispensable(self.values[n]):
                    del self.values[n]


def _is_dispensable(value: Any) -> bool:
    """Return True for values that can be large, and whose shape is all that a move asks of them; indices are not."""
    return value.is_floating_point() if type(value) is Tensor else type(value) in (tuple, list)
