"""Relevance through products of values that both depend on the image, quotients, softmax and attention.

Of a product both factors are active, and each takes half (Achtibat et al., 2024, proposition 3.3). Gates take nothing.
Attention weights are either constant (CP-LRP, Ali et al., 2022), so that all relevance goes to the values, or the
softmax is expanded at its input (AttnLRP, proposition 3.1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from stochx.engine.lrp.kinds import Sent, refuse
from stochx.engine.lrp.rules import share, stabilise
from stochx.engine.network.graph import arguments

if TYPE_CHECKING:
    from stochx.engine.lrp.tape import RelevanceTape


def multiply(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Send relevance to the factors of an elementwise product that are not constant, not broadcast and no gate."""
    given = arguments(node, "input", "other")
    return _to_factors(tape, (given["input"], given["other"]), relevance)


def divide(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Send relevance to the numerator, as denominators rescale; to the denominator of a constant."""
    given = arguments(node, "input", "other")
    source = given["input"] if given["input"] in tape.depends else given["other"]
    return [(source, relevance.sum_to_size(tape.shapes[source]))]


def _to_factors(tape: RelevanceTape, factors: tuple[Any, ...], relevance: Tensor) -> Sent:
    active = [n for n in factors if isinstance(n, fx.Node) and n in tape.depends]
    whole = [n for n in active if tape.shapes[n] == relevance.shape]
    takers = [n for n in whole if not tape.is_gate(n)] or whole or active
    return [(n, relevance.sum_to_size(tape.shapes[n]) / len(takers)) for n in takers]


def multiply_and_add(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through addcmul, input + value * tensor1 * tensor2: a sum, then a product."""
    given = arguments(node, "input", "tensor1", "tensor2")
    first, *factors = (given[name] for name in ("input", "tensor1", "tensor2"))
    one, other = (tape.values[n] for n in factors)
    product = one * other * given.get("value", 1)
    summands = [tape.values[first], product.expand(relevance.shape)]
    own, rest = share(relevance, summands, tape.rules.stabiliser)
    return [(first, own), *_to_factors(tape, tuple(factors), rest)]


def contract(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through a matrix product or `einsum`: the epsilon rule for each active factor, in equal shares."""
    active = tape.signals(node)
    values = {**tape.values, **{n: tape.values[n].detach().requires_grad_() for n in active}}
    with torch.enable_grad():
        out = tape.run(node, values)
    s = relevance / stabilise(out.detach(), tape.rules.stabiliser)
    slopes = torch.autograd.grad(out, [values[n] for n in active], s)
    count = _occurrences(node, set(active))
    return [(n, tape.values[n] * slope / count) for n, slope in zip(active, slopes, strict=True)]


def _occurrences(node: fx.Node, active: set[fx.Node]) -> int:
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return sum(n in active for n in found)


def softmax(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Expand a softmax at its input: R_i = x_i (R_i - s_i sum_j R_j), whose bias absorbs the rest."""
    module = tape.modules[str(node.target)] if node.op == "call_module" else None
    axis: Any = module.dim if module is not None else arguments(node, "input", "dim")["dim"]
    source = tape.signals(node)[0]
    x = tape.values[source]
    return [(source, x.masked_fill(x.isneginf(), 0) * _softened(x.softmax(axis), relevance, axis))]


def _softened(weights: Tensor, relevance: Tensor, axis: int) -> Tensor:
    return relevance - weights * relevance.sum(axis, keepdim=True)


def attend(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Propagate through `scaled_dot_product_attention`: product, softmax of scores with a mask, product."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = arguments(node, *names)
    if given.get("enable_gqa"):
        refuse(tape, node, "grouped queries")
    nodes = [given[name] for name in names[:3]]
    query, key, value = (tape.values[n] for n in nodes)
    scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
    mask = None if given.get("attn_mask") is None else tape.values[given["attn_mask"]]
    weights = _masked(query @ key.mT * scale, mask, bool(given.get("is_causal"))).softmax(-1)
    s = relevance / stabilise(weights @ value, tape.rules.stabiliser)
    received = value * (weights.mT @ s)
    active = sum(n in tape.depends for n in nodes[:2])
    if tape.rules.constant_attention or not active:
        return [(nodes[2], received.sum_to_size(tape.shapes[nodes[2]]))]
    # With x = scale q k + mask, the softmax gives x (...), of which the mask absorbs its part and q and k half each.
    slope = _softened(weights, weights * (s @ value.mT) / 2, -1) * scale / active
    parts = query * (slope @ key), key * (slope.mT @ query), received / 2
    return [(n, part.sum_to_size(tape.shapes[n])) for n, part in zip(nodes, parts, strict=True)]


def _masked(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        return scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
