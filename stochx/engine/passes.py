"""Rows that pass through networks, counted for whoever watches a run: a method may take minutes for an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

LISTENER: ContextVar[Callable[[int], None]] = ContextVar("LISTENER")


@contextlib.contextmanager
def counting(listener: Callable[[int], None]) -> Iterator[None]:
    """Tell `listener` in the block of all rows (images, noisy copies, points of a path) as they pass."""
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def count(rows: int) -> None:
    """Count rows that have passed."""
    listener = LISTENER.get(None)
    if listener is not None:
        listener(rows)
