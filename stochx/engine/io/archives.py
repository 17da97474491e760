"""Archives whose members have names of their own: readers differ in which of two of one name they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from stochx.errors import printable


def check_names(names: Iterable[str]) -> None:
    """Raise `ValueError` for names of members of which one occurs twice."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the archive holds two members of one name, `{printable(twice)}`")
