"""Work that is counted for whoever watches a run: items that are done, and rows that pass through networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from stochx import interrupts

Report = Callable[[int], None]
"""Takes the number of items (images, batches, episodes) that were done since the last call."""

LISTENER: ContextVar[Report] = ContextVar("LISTENER")


def unreported(count: int) -> None:
    """Ignore a count."""


@contextlib.contextmanager
def counting(listener: Report) -> Iterator[None]:
    """Tell `listener` in the block of all rows (images, noisy copies, points of a path) as they pass.

    A method may take minutes for an image, which would look like a standstill.
    """
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def count(rows: int) -> None:
    """Count rows that have passed; between two batches, a signal that Python has swallowed ends the run."""
    interrupts.check()
    listener = LISTENER.get(None)
    if listener is not None:
        listener(rows)
