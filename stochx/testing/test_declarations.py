"""Contract of the declarations of every family."""

from __future__ import annotations

import dataclasses

from stochx.catalog import FAMILIES
from stochx.errors import UsageError


def test_an_entry_is_a_frozen_dataclass_with_help(entry: tuple[str, str]) -> None:
    family, name = entry
    catalog = FAMILIES[family]
    cls = catalog.load(name)
    frozen = getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    assert frozen, f"`{cls.__name__}` is not a frozen dataclass: write `@dataclass(frozen=True)` above it"
    summary = catalog.summary(name)
    assert summary.endswith("."), f"the docstring of `{cls.__name__}` begins {summary!r}: begin with one sentence"
    typed = [field.name for field in catalog.fields(name)]
    actual = [field.name for field in dataclasses.fields(cls)]
    assert actual == typed, f"the fields are {actual}, the file shows {typed}: declare all in the class itself"
    silent = [field.key for field in catalog.fields(name) if not field.help]
    assert not silent, f"`{silent[0]}` has no help: write it behind the field, `{silent[0]}: int = 1  # help`"


def test_examples_and_other_names_of_an_entry_can_be_read(entry: tuple[str, str]) -> None:
    family, name = entry
    catalog = FAMILIES[family]
    examples = catalog.declares(name, "examples")
    fits = examples is None or (isinstance(examples, tuple) and all(isinstance(text, str) for text in examples))
    assert fits, f"`examples` is {examples!r}: write a tuple of texts, such as `('steps=6',)`"
    if isinstance(examples, tuple):
        for keys in examples:
            catalog.parse(f"{name}:{keys}")
    aliases = catalog.declares(name, "aliases") or {}
    assert isinstance(aliases, dict), f"`aliases` is {aliases!r}: write a dict such as `{{'old': 'depth=20'}}`"
    for alias in aliases:
        assert alias not in list(catalog), f"`{alias}` is an entry's own name: choose another alias"
        assert catalog.parse_name(alias)[0] == name, f"`{alias}` stands for another entry: choose another alias"


def test_an_unknown_key_is_refused(entry: tuple[str, str]) -> None:
    family, name = entry
    try:
        FAMILIES[family].parse(f"{name}:no-such-key=1")
    except UsageError as error:
        assert "no-such-key" in str(error) and error.hint
    else:
        raise AssertionError(f"`{name}:no-such-key=1` was accepted")
