"""Relevance through layers with weights and through sums."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from stochx.engine.lrp.kinds import Sent, refuse
from stochx.engine.lrp.products import contract
from stochx.engine.lrp.rules import Layer, share
from stochx.engine.network.graph import arguments

if TYPE_CHECKING:
    from stochx.engine.lrp.tape import RelevanceTape

# Functions, and the axes of their weights; convolutions also take inputs without a batch, which no network has.
CONVOLUTIONS: dict[object, int] = {
    **dict.fromkeys((F.conv1d, torch.conv1d), 3),
    **dict.fromkeys((F.conv2d, torch.conv2d), 4),
    **dict.fromkeys((F.conv3d, torch.conv3d), 5),
}
DIFFERENCES: set[object] = {operator.sub, torch.sub, torch.subtract, "sub", "subtract"}


def layer(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Apply the rule for this type of layer."""
    source, weights = _weights(tape, node)
    return _by_rule(tape, node, source, weights, relevance)


def product(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through a matrix product: with constant weights (I, O) on the right it is a layer."""
    left, right = node.args
    if isinstance(right, fx.Node) and right not in tape.depends and tape.values[right].dim() == 2:
        assert isinstance(left, fx.Node)
        return _by_rule(tape, node, left, Layer.dense(tape.values[right].mT), relevance)
    return contract(tape, node, relevance)


def _by_rule(tape: RelevanceTape, node: fx.Node, source: fx.Node, weights: Layer, relevance: Tensor) -> Sent:
    rules = tape.rules
    if rules.first is not None and source in tape.raw:
        return [(source, rules.first(weights, tape.values[source], relevance, *tape.span(source)))]
    if weights.weight.dim() > 2:
        return [(source, rules.convolution(weights, tape.values[source], relevance))]
    rule = rules.mlp if rules.mlp is not None and tape.beside_activation(node) else rules.dense
    return [(source, rule(replace(weights, output=tape.values.get(node)), tape.values[source], relevance))]


def _weights(tape: RelevanceTape, node: fx.Node) -> tuple[fx.Node, Layer]:
    """Return the input of a layer, and the layer."""
    module = tape.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        mode = getattr(module, "padding_mode", "zeros")
        if mode != "zeros":
            refuse(tape, node, f"{mode} padding")
        return tape.signals(node)[0], Layer.of(module)
    given = arguments(node, "input", "weight", "bias", "stride", "padding", "dilation", "groups")
    source = given.pop("input")
    nodes = [value for value in given.values() if isinstance(value, fx.Node)]
    settings = {name: tape.values[value] if isinstance(value, fx.Node) else value for name, value in given.items()}
    dimensions = CONVOLUTIONS.get(node.target, 2)
    if source not in tape.depends or not tape.depends.isdisjoint(nodes) or settings["weight"].dim() != dimensions:
        refuse(tape, node, "weights that are not constant")
    return source, (Layer.convolution if dimensions > 2 else Layer.dense)(**settings)


def total(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Share the relevance of a sum or a difference in proportion to its summands."""
    given = arguments(node, "input", "other")
    signals = tape.signals(node)
    if node in tape.raw and len(signals) == 1:  # a shift of the image, such as a normalisation
        return [(signals[0], relevance.sum_to_size(tape.shapes[signals[0]]))]
    sign = -1 if node.target in DIFFERENCES else 1
    factors = {"input": 1, "other": sign * given.get("alpha", 1)}
    parts = {name: (given[name], factor) for name, factor in factors.items()}
    summands = [(tape.values[n] if isinstance(n, fx.Node) else relevance.new_tensor(n)) * f for n, f in parts.values()]
    shares = share(relevance, summands, tape.rules.stabiliser)
    return [(n, part) for (n, _), part in zip(parts.values(), shares, strict=True) if isinstance(n, fx.Node)]
