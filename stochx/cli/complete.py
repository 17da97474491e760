"""Answers to a shell's TAB: closed choices, and `NAME[:KEY=VALUE,...]` of the families."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from stochx.catalog import FAMILIES, include
from stochx.errors import printable
from stochx.settings.base import NONE, Setting

ASKED_BY_FISH = os.environ.get("_STOCHX_COMPLETE") == "complete_fish"  # zsh asks as fish does


def completer(setting: Setting) -> Callable[..., list[Any]] | None:
    """Make the completion of an option's values; None leaves them to the shell, which knows files."""
    if not (setting.option.family or setting.choices):
        return None

    def answers(context: typer.Context, incomplete: str) -> list[Any]:
        for file in context.params.get("include") or []:
            include(Path(file))
        pairs = list(_entries(setting, incomplete)) if setting.option.family else []
        words = (NONE,) if setting.option.or_none else setting.choices
        pairs += [(word, "") for word in words if word.startswith(incomplete)]
        pairs = [(printable(value), printable(help)) for value, help in pairs]
        return [_line(*pair) for pair in pairs] if ASKED_BY_FISH else pairs

    return answers


def described(items: Iterable[Any]) -> list[Any]:
    """Put the help of click's completion items where fish and zsh read it."""
    items = list(items)
    if ASKED_BY_FISH:
        for item in items:
            item.value, item.help = _line(item.value, item.help or ""), None
    return items


def _line(value: str, help: str) -> str:
    """Write `value TAB help`; typer would import all of rich to write the same line."""
    return f"{value}\t{' '.join(help.split())}" if help else value


def _entries(setting: Setting, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete names, then keys, then the choices of a key, each with its help."""
    family = FAMILIES[setting.option.family]
    name, colon, rest = incomplete.partition(":")
    if not colon:
        return [(n, family.summary(n)) for n in setting.entries if n.startswith(incomplete)]
    if name not in family:
        return []
    *done, last = rest.split(",")
    stem = f"{name}:{''.join(f'{item},' for item in done)}"
    key, equals, value = last.partition("=")
    fields = family.fields(name)
    if equals:
        field = next((f for f in fields if f.key == key), None)
        choices = () if field is None else ("true", "false") if field.type == "bool" else field.choices
        return [(f"{stem}{key}={c}", field.help if field else "") for c in choices if c.startswith(value)]
    return [
        (f"{stem}{f.key}=", f"{f.help} (default {f.default})" if f.default else f.help)
        for f in fields
        if f.key.startswith(key)
    ]
