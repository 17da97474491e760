"""Kinds of operations, and what every rule needs to find the inputs of one and to refuse it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from torch import Tensor, fx

from stochx.errors import InputError

if TYPE_CHECKING:
    from stochx.engine.lrp.tape import RelevanceTape

Sent = Iterable[tuple[fx.Node, Tensor]]


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of operation: `send` returns the relevance of its inputs, from their values or from their shapes alone.

    `unary` operations carry relevance from their first input alone, and `constant` ones from none: what they read is a
    shape, a type or a comparison. The smallest and largest value of the image pass through `ranged` ones.
    """

    send: Callable[[RelevanceTape, fx.Node, Tensor], Sent]
    needs_values: bool = False
    unary: bool = False
    constant: bool = False
    ranged: bool = True
    needs_output: bool = False


def nothing(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> Sent:
    """Absorb the relevance."""
    return []


def unknown(tape: RelevanceTape, node: fx.Node, relevance: Tensor) -> NoReturn:
    """Refuse an operation without a rule."""
    refuse(tape, node)


def refuse(tape: RelevanceTape, node: fx.Node, why: str = "") -> NoReturn:
    """Raise `InputError` that names the operation."""
    target = type(tape.modules[str(node.target)]) if node.op == "call_module" else node.target
    operation = f"`{getattr(target, '__name__', target)}`" + (f" with {why}" if why else "")
    raise InputError(f"lrp has no rule for {operation}, at `{node.name}`", "use `ig`, `smoothgrad` or `smoothtaylor`")
