"""Calls in the background, on a few threads."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from stochx.background import Thread

WATCH = 1.0  # seconds after which a call that has no result yet is asked whether a thread is there for it
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

    def submit(self, function: Callable[[T], R], given: T) -> Callable[[], R]:
        """Call `function(given)` in the background, and return what waits for the result.

        Raises `RuntimeError` where no thread can be started.
        """
        future = Future[R]()
        self._calls.put((future, lambda: function(given)))
        if len(self._threads) < self._count:
            thread = Thread(self._serve)
            thread.start()
            self._threads.append(thread)
        return lambda: self._result(future)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the results of all calls, in order, and keep none."""
        results = deque(self.submit(function, item) for item in items)
        while results:
            yield results.popleft()()

    def _result(self, future: Future[R]) -> R:
        """Wait for a result; raises `MemoryError` if a thread is gone, as one is that has no memory to say so."""
        while not wait([future], WATCH).done:
            if not all(thread.is_alive() for thread in self._threads) and not future.done():
                raise MemoryError("a thread was lost")
        return future.result()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, work = call
            try:
                future.set_result(work())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)
            del call, future, work  # while it waits for the next one, the result is not its own to keep
