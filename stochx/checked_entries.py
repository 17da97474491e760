"""The first base of an entry's class: its values are checked when it is made, its results when it is called."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from stochx.declarations import Field
from stochx.errors import InputError, SettingError, StochxError

K = TypeVar("K")


def check_kind(entry: object, result: object, kind: type[K]) -> K:
    """Return what the call of an entry gave; raises `InputError`, which names the entry, if it is no `kind`."""
    if not isinstance(result, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        message = f"`{type(entry).__name__}` returns a {type(result).__name__}"
        raise InputError(message, f"return {article} `{kind.__name__}`")
    return result


def imported(text: str) -> type:
    """Return what `package.module:name` names."""
    module, _, name = text.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def checked_init(own: type, fields: Mapping[str, Field]) -> Callable[..., None]:
    """Return an `__init__` of the entry `own` that raises `SettingError` for values that it cannot have."""
    signature, begin = inspect.signature(own), own.__init__  # type: ignore[misc]  # of this very class

    @functools.wraps(begin)
    def init(self: object, *values: object, **named: object) -> None:
        for name, value in signature.bind(*values, **named).arguments.items():
            if name in fields:
                fields[name].check(value, f"{own.__name__}({fields[name].name}=...)")
        try:
            begin(self, *values, **named)
        except ValueError as error:
            raise error if isinstance(error, StochxError) else SettingError(str(error)) from None

    return init


@cache
def returning(kind: type) -> type:
    """Return a first base for entries, whose calls raise `InputError` for a result that is no `kind`."""

    class Call:
        def __call__(self, *args: Any, **keywords: Any) -> Any:
            try:
                made = super().__call__(*args, **keywords)  # type: ignore[misc]  # that of the entry
            except RuntimeError as error:
                if "Storage size calculation overflowed" not in str(error):
                    raise
                raise InputError(
                    f"`{self!r:.80}` asks for more memory than there can be", "use smaller values"
                ) from None
            return check_kind(self, made, kind)

    return Call
