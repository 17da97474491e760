"""Relevance through a whole traced network, operation by operation, whatever its wiring."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.relevance import Layer, share, through
from stochx.errors import InputError

Rule = Callable[[Layer, Tensor, Tensor], Tensor]
Choose = Callable[[nn.Module, bool], Rule]  # a layer with weights, and whether it is the first -> its rule

PASS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Tanh,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.BatchNorm1d,
    nn.BatchNorm2d,  # one that no convolution could absorb, as before DenseNet's: passed unchanged
)
MOVE = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.ChannelShuffle)
AVERAGE = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)

# Functions and, as texts, methods.
PASS_CALLS: set[object] = {F.relu, F.relu6, F.leaky_relu, F.silu, F.gelu, F.hardswish, F.dropout, torch.relu, "relu"}
ADD_CALLS: set[object] = {torch.add, operator.add, operator.iadd, "add", "add_"}
MOVE_CALLS: set[object] = {torch.flatten, torch.reshape, torch.transpose, torch.permute, torch.squeeze, F.pad}
MOVE_CALLS |= {F.max_pool2d, operator.getitem, "flatten", "reshape", "transpose", "permute", "squeeze", "contiguous"}
AVERAGE_CALLS: set[object] = {F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, "mean"}


class Tape:
    """The values of every operation of a network for one batch, and relevance sent back along them."""

    def __init__(self, graph: fx.GraphModule, x: Tensor) -> None:
        self.graph, self.modules = graph, dict(graph.named_modules())
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in graph.graph.nodes:
                if node.op == "placeholder":
                    self.values[node] = x
                elif node.op == "output":
                    self.output = self._value(node.args[0])
                else:
                    self.values[node] = self._run(node)

    def relevance(self, start: Tensor, choose: Choose) -> Tensor:
        """The input's relevance for `start`, the output's: shapes as the two."""
        order = list(self.graph.graph.nodes)
        layers = [n for n in order if isinstance(self._module(n), nn.Linear | nn.Conv2d)]
        waiting: dict[fx.Node, Tensor] = {order[-1].args[0]: start}
        for node in reversed(order):
            relevance = waiting.pop(node, None)
            if relevance is None:
                continue
            if node.op == "placeholder":
                return relevance
            for source, part in self._back(node, relevance, choose, node is layers[0] if layers else False):
                waiting[source] = waiting[source] + part if source in waiting else part
        raise InputError("the network's output does not depend on its input", "check the model")

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _value(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, self.values.__getitem__)

    def _run(self, node: fx.Node, replaced: fx.Node | None = None, by: Tensor | None = None) -> Any:
        """The value of `node`; one of its inputs may be `replaced`. Nothing is computed in place."""

        def look(source: fx.Node) -> Any:
            return by if source is replaced else self.values[source]

        args: Any = fx.node.map_arg(node.args, look)
        kwargs: dict[str, Any] = fx.node.map_arg(node.kwargs, look)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.graph)
        module = self._module(node)
        if module is not None:
            return module(*(a.clone() if getattr(module, "inplace", False) else a for a in args), **kwargs)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        if node.op == "call_method":
            return getattr(args[0], str(node.target).rstrip("_"))(*args[1:], **kwargs)
        assert callable(node.target)
        function = operator.add if node.target is operator.iadd else node.target
        return function(*args, **kwargs)

    def _back(self, node: fx.Node, relevance: Tensor, choose: Choose, first: bool) -> list[tuple[fx.Node, Tensor]]:
        """Which inputs of `node` receive how much."""
        module, target = self._module(node), node.target
        sources = [n for n in node.all_input_nodes if isinstance(self.values[n], Tensor)]
        only = sources[0]
        if isinstance(module, nn.Linear | nn.Conv2d):
            with torch.no_grad():
                return [(only, choose(module, first)(Layer.of(module), self.values[only], relevance))]
        if isinstance(module, PASS) or target in PASS_CALLS:
            return [(only, relevance)]
        if target in ADD_CALLS:
            summands = [n for n in node.args if isinstance(n, fx.Node)]
            parts = share(relevance, [self.values[n] for n in summands], self.values[node])
            return list(zip(summands, parts, strict=True))
        if target in (torch.cat, torch.concat):
            pieces: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
            axis: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            sizes = [self.values[n].shape[axis] for n in pieces]
            return list(zip(pieces, torch.split(relevance, sizes, axis), strict=True))
        if isinstance(module, MOVE + AVERAGE) or target in MOVE_CALLS or target in AVERAGE_CALLS:
            normed = isinstance(module, AVERAGE) or target in AVERAGE_CALLS
            return [(only, through(relevance, self.values[only], lambda v: self._run(node, only, v), normed))]
        if target in (operator.mul, torch.mul) and len(sources) == 2:
            return [(max(sources, key=lambda n: self.values[n].numel()), relevance)]  # a gate takes nothing
        what = type(module).__name__ if module is not None else getattr(target, "__name__", str(target))
        raise InputError(f"lrp has no rule for `{what}` (`{node.name}`)", "use `ig`, `smoothgrad` or `smoothtaylor`")
