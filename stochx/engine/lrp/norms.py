"""Relevance through norms of layers, groups and instances.

The standard deviation is a constant, so that a norm is linear: y = gamma (x - mean) / sigma + beta. The epsilon rule
follows, in which beta absorbs its share (Achtibat et al., 2024, proposition 3.4). A norm without a mean only rescales:
relevance passes unchanged.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from stochx.engine.lrp.kinds import Sent
from stochx.engine.lrp.rules import stabilise
from stochx.engine.network.graph import arguments

if TYPE_CHECKING:
    from stochx.engine.lrp.tape import RelevanceTape


def centred(
    x: Tensor, relevance: Tensor, size: int, weight: Tensor, bias: Tensor, eps: float, stabiliser: float
) -> Tensor:
    """Return the relevance of x (..., L), where each `size` values in a row, of the last axes, have a norm in common.

    `weight` and `bias` are of x's shape, or broadcast to it.
    """

    def rows(values: Tensor) -> Tensor:
        return values.expand_as(x).reshape(-1, size)

    variance, mean = torch.var_mean(rows(x), 1, correction=0, keepdim=True)
    slope = (variance + eps).rsqrt() * rows(weight)
    y = (rows(x) - mean) * slope + rows(bias)
    s = rows(relevance) / stabilise(y, stabiliser) * slope
    return (rows(x) * (s - s.mean(1, keepdim=True))).reshape(x.shape)


def layer_norm(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through a layer norm, over the last axes."""
    source, given = _given(tape, node, "input", "normalized_shape", "weight", "bias", "eps")
    x, shape = tape.values[source], given["normalized_shape"]
    size = shape if isinstance(shape, int) else math.prod(shape)
    eps = given.get("eps", 1e-5)
    return [(source, centred(x, relevance, size, *_affine(x, given), eps, tape.rules.stabiliser))]


def group_norm(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through a group norm of (N, C, ...), over the channels of a group and all positions."""
    source, given = _given(tape, node, "input", "num_groups", "weight", "bias", "eps")
    return _by_channel(tape, source, relevance, given, given["num_groups"])


def instance_norm(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through an instance norm of (N, C, ...), over all positions of a channel."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    source, given = _given(tape, node, *names)
    if given.get("running_mean") is not None and not given.get("use_input_stats", True):  # an affine map, as batch norm
        return [(source, relevance)]
    return _by_channel(tape, source, relevance, given, tape.shapes[source][1])


def _by_channel(tape: RelevanceTape, source: fx.Node, relevance: Tensor, given: dict[str, Any], groups: int) -> Sent:
    x = tape.values[source]
    weight, bias = (values.reshape(-1, *[1] * (x.dim() - 2)) for values in _affine(x, given))
    size, eps = math.prod(x.shape[1:]) // groups, given.get("eps", 1e-5)
    return [(source, centred(x, relevance, size, weight, bias, eps, tape.rules.stabiliser))]


def _affine(x: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    weight, bias = given.get("weight"), given.get("bias")
    return x.new_ones(1) if weight is None else weight, x.new_zeros(1) if bias is None else bias


def _given(tape: RelevanceTape, node: fx.Node, *names: str) -> tuple[fx.Node, dict[str, Any]]:
    """Return the input and the settings of a norm, be it a module or a function."""
    if node.op == "call_module":
        module = tape.modules[str(node.target)]
        given = {name: getattr(module, name, None) for name in names[1:]}
        given["use_input_stats"] = not getattr(module, "track_running_stats", False)
        return tape.signals(node)[0], given
    given = {
        name: tape.values[value] if isinstance(value, fx.Node) else value
        for name, value in arguments(node, *names).items()
        if name != "input"
    }
    return tape.signals(node)[0], given
