"""Threads in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable

PATIENCE = 10.0  # seconds until a thread must run
NO_THREAD = "can't start new thread"  # Python's words for a limit, and for a lack of memory


class Thread(threading.Thread):
    """A thread whose `start` raises `RuntimeError` if it finds no memory to begin, where Python would wait for ever."""

    def __init__(self, work: Callable[[], None], name: str | None = None) -> None:
        super().__init__(target=work, name=name, daemon=True)
        self._started = _Start()  # what `start` of the base class waits for


class _Start(threading.Event):
    """The event that tells that a thread has begun."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the thread; raises `RuntimeError` after a time."""
        begun = super().wait(PATIENCE if timeout is None else timeout)
        if not begun and timeout is None:
            raise RuntimeError(NO_THREAD)
        return begun
