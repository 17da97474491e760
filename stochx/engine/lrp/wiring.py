"""What an operation is part of: a gate, an MLP, or attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import fx

from stochx.engine.lrp.kinds import Kind
from stochx.engine.lrp.operations import (
    ACTIVATION,
    ATTENTION,
    CONTRACTION,
    FUSED,
    GATE,
    MATMUL,
    MOVE,
    NORMS,
    PASS,
    PRODUCT,
    QUOTIENT,
    SOFTMAX,
    SUM,
)

Kinds = Mapping[fx.Node, Kind]
Signals = Callable[[fx.Node], list[fx.Node]]


def is_gate(node: fx.Node, kinds: Kinds, signals: Signals) -> bool:
    """Return True if `node` is the value of a sigmoid, a tanh or a softmax, moved, scaled or shifted at most."""
    while kinds[node] not in (GATE, SOFTMAX):
        if kinds[node] not in (PASS, MOVE, PRODUCT, QUOTIENT, SUM) or len(signals(node)) != 1:
            return False
        (node,) = signals(node)
    return True


def weighs(node: fx.Node, kinds: Kinds) -> bool:
    """Return True if a product follows `node`, so that it weights something."""
    return _meets(node, lambda n: n.users, {MATMUL, CONTRACTION, PRODUCT, FUSED, ATTENTION}, kinds, {*kinds.values()})


def beside_activation(node: fx.Node, kinds: Kinds, signals: Signals) -> bool:
    """Return True if `node` feeds or reads an activation, with moves, norms and gates at most between them."""
    between = {PASS, MOVE, PRODUCT, GATE, *NORMS}
    return any(_meets(node, step, {ACTIVATION}, kinds, between) for step in (lambda n: n.users, signals))


def _meets(
    start: fx.Node, step: Callable[[fx.Node], Iterable[fx.Node]], wanted: set[Kind], kinds: Kinds, between: set[Kind]
) -> bool:
    """Return True if steps from `start` lead to a wanted kind through the kinds `between`."""
    waiting, seen = list(step(start)), set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if kinds[node] in wanted:
            return True
        if kinds[node] in between and node not in seen:
            seen.add(node)
            waiting += step(node)
    return False
