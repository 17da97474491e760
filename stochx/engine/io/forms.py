"""What values of a file must be: checked once, where they are read, by the annotations of what writes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

Check = Callable[[Any], str | None]
"""Returns where a value is not what it must be, such as `.attacks.fgsm.l2`; "" for the value itself; None if it is."""

LARGEST: Mapping[type, float] = {int: 2**63 - 1, float: 1e100}  # squares of numbers do not overflow


@dataclass(frozen=True)
class Range:
    """The least and the greatest number that a field may hold."""

    least: float
    most: float


Count = Annotated[int, Range(0, 2**31 - 1)]
"""A number of things, or the place of one among others."""
Share = Annotated[float, Range(0, 1)]


def below(count: int) -> Any:
    """Return the kind of a place among `count` things, such as a class of a network."""
    return Annotated[int, Range(0, count - 1)]


@dataclass(frozen=True)
class Form:
    """An object with the fields of a dataclass or TypedDict; `also` holds more of them, or narrower kinds of these.

    Fields without a name here are of the kind `others`, and refused where that is None.
    """

    kind: Any
    also: Mapping[str, Any] = field(default_factory=dict)
    others: Any = None


@dataclass(frozen=True)
class Keyed:
    """An object with a value of one kind under each of some names, and no others."""

    names: Collection[str]
    kind: Any


@dataclass(frozen=True)
class Listed:
    """A list of values of one kind, `count` of them if that is known."""

    kind: Any
    count: int | None = None


@dataclass(frozen=True)
class OneOf:
    """One of some texts."""

    texts: Collection[str]


def check_of(kind: Any) -> Check:
    """Return the check of a kind: an annotation, or a `Form`, `Keyed`, `Listed` or `OneOf`."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, Form):
        return _form(kind)
    if isinstance(kind, Keyed):
        each = check_of(kind.kind)
        return partial(_object, dict.fromkeys(kind.names, each), frozenset(kind.names), None)
    if isinstance(kind, Listed):
        return partial(_list, check_of(kind.kind), kind.count)
    if isinstance(kind, OneOf):
        return lambda value: None if type(value) is str and value in kind.texts else ""
    if origin is Annotated:
        (extent,) = (part for part in inner[1:] if isinstance(part, Range))
        return partial(_number, get_args(kind)[0] is float, extent.least, extent.most)
    if origin is NotRequired:
        return check_of(inner[0])
    if origin in (Union, UnionType):
        return partial(_optional, [check_of(part) for part in inner if part is not NoneType])
    if kind in LARGEST:
        return partial(_number, kind is float, -LARGEST[kind], LARGEST[kind])
    if origin is not None and issubclass(origin, Mapping):
        return partial(_object, {}, frozenset(), check_of(inner[1]))
    if origin is not None and issubclass(origin, Sequence):
        return partial(_list, check_of(inner[0]), None)
    return partial(_plain, kind) if kind in (str, bool) else _form(Form(kind))


def _form(form: Form) -> Check:
    kinds = get_type_hints(form.kind, include_extras=True)
    optional = {f.name for f in fields(form.kind) if _has_default(f)} if is_dataclass(form.kind) else set()
    optional -= form.also.keys()
    kinds |= form.also
    optional |= {name for name, kind in kinds.items() if get_origin(kind) is NotRequired}
    others = None if form.others is None else check_of(form.others)
    needed = frozenset(kinds.keys() - optional)
    return partial(_object, {name: check_of(kind) for name, kind in kinds.items()}, needed, others)


def _has_default(one: Field[Any]) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


def _object(checks: Mapping[str, Check], needed: frozenset[str], others: Check | None, value: Any) -> str | None:
    if type(value) is not dict:
        return ""
    if not needed <= value.keys():
        return f".{min(needed - value.keys())}"
    for name, part in value.items():
        check = checks.get(name, others)
        fault = "" if check is None else check(part)
        if fault is not None:
            return f".{name}{fault}"
    return None


def _list(each: Check, count: int | None, value: Any) -> str | None:
    if type(value) is not list or (count is not None and len(value) != count):
        return ""
    for place, part in enumerate(value):
        fault = each(part)
        if fault is not None:
            return f"[{place}]{fault}"
    return None


def _optional(checks: Sequence[Check], value: Any) -> str | None:
    """Check a value of one of several kinds, or null."""
    faults = [] if value is None else [check(value) for check in checks]
    return None if value is None or None in faults else faults[-1]


def _number(fractions: bool, least: float, most: float, value: Any) -> str | None:
    right = type(value) is int or (fractions and type(value) is float)
    return None if right and least <= value <= most else ""


def _plain(kind: type, value: Any) -> str | None:
    return None if type(value) is kind else ""
