"""Calls in the background, on a few threads."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from stochx.background import Thread

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Up to `count` threads; at the end of its block calls that run are waited for, and those that wait are dropped.

    Unlike `concurrent.futures.ThreadPoolExecutor` it does not hang where a thread finds no memory to begin.
    """

    def __init__(self, count: int) -> None:
        self._count, self._threads = count, list[Thread]()
        self._calls = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, function: Callable[[T], R], given: T) -> Future[R]:
        """Call `function(given)` in the background; raises `RuntimeError` where no thread can be started."""
        future = Future[R]()
        self._calls.put((future, lambda: function(given)))
        if len(self._threads) < self._count:
            thread = Thread(self._serve)
            thread.start()
            self._threads.append(thread)
        return future

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield the results of all calls, in order."""
        futures = [self.submit(function, item) for item in items]
        return (future.result() for future in futures)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, work = call
            try:
                future.set_result(work())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)
