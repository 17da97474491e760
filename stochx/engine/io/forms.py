"""What the values of a record must be: the annotations of what writes it, which `msgspec` checks as it reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A number of things, or the place of one among others."""
Share = Annotated[float, Meta(ge=0, le=1)]

LARGEST: Mapping[type, Any] = {
    int: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    float: Annotated[float, Meta(ge=-1e100, le=1e100)],  # squares of numbers do not overflow
}

_typed_dict: Any = TypedDict  # of names that are known when it is called


def below(count: int) -> Any:
    """Return the kind of a place among `count` things, such as a class of a network."""
    return Annotated[int, Meta(ge=0, le=count - 1)]


def keyed(names: Collection[str], kind: Any) -> Any:
    """Return the kind of an object with a value of one kind under each of some names."""
    return _typed_dict("Keyed", dict.fromkeys(names, kind_of(kind)))


def listed(kind: Any, count: int) -> Any:
    """Return the kind of a list of `count` values of one kind."""
    return Annotated[list[kind_of(kind)], Meta(min_length=count, max_length=count)]  # type: ignore[misc]


def one_of(texts: Collection[str]) -> Any:
    """Return the kind of one of some texts."""
    return Literal[tuple(texts)]


def form(kind: Any, **narrower: Any) -> Any:
    """Return the kind of an object with the fields of a dataclass or TypedDict, some of them narrower or added.

    What has a default in a dataclass is there too, since all of it was written.
    """
    kinds = get_type_hints(kind, include_extras=True) | narrower
    return _typed_dict(kind.__name__, {name: kind_of(each) for name, each in kinds.items()})


def kind_of(kind: Any) -> Any:
    """Return a kind whose numbers have bounds, and whose objects are dictionaries."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in LARGEST:
        return LARGEST[kind]
    if is_dataclass(kind) or is_typeddict(kind):
        return form(kind)
    if origin is NotRequired:
        return NotRequired[kind_of(inner[0])]
    if origin in (Union, UnionType):
        return Union[tuple(map(kind_of, inner))]  # noqa: UP007  # of kinds that are known when it is called
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[str, kind_of(inner[1])]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return list[kind_of(inner[0])]  # type: ignore[misc]
    return kind
