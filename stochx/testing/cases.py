"""Which entries are tested, and with which settings."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.catalog import FAMILIES

ARGUMENTS = {family.removesuffix("s"): family for family in FAMILIES}  # a test's argument `attack` is a spec of one


def names(family: str, included: bool = False) -> list[str]:
    """Return the entries of a family; of those that files include only, where these are asked for."""
    return [name for name in FAMILIES[family] if not included or FAMILIES[family].is_included(name)]


def built_in(family: str) -> list[str]:
    """Return the entries of a family that no file includes: those that another family's entries are tested with."""
    return [name for name in FAMILIES[family] if not FAMILIES[family].is_included(name)]


def specs(family: str, included: bool = False, given: Sequence[str] = ()) -> list[str]:
    """Return the specs that a family is tested with.

    `given`, such as `attacks:mine:steps=3`, replace the examples that an entry declares.
    """
    return [spec for name in names(family, included) for spec in _specs(family, name, given)]


def _specs(family: str, name: str, given: Sequence[str]) -> list[str]:
    texts = [spec for owner, _, spec in (text.partition(":") for text in given) if owner == family]
    own = [text for text in texts if FAMILIES[family].parse_name(text)[0] == name]
    examples = FAMILIES[family].declares(name, "examples")
    if own or not isinstance(examples, tuple):
        return own or [name]
    return [f"{name}:{keys}" if keys else name for keys in examples]
