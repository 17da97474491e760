"""Calls in the background: in order, at once, and without a hang where a thread does not begin."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from stochx import background
from stochx.engine import workers
from stochx.engine.workers import Workers


def test_results_come_in_the_order_of_the_items_whatever_each_takes():
    with Workers(4) as workers:
        assert list(workers.map(lambda n: time.sleep(0.02 * (5 - n)) or n, range(5))) == [0, 1, 2, 3, 4]


def test_as_many_calls_run_at_once_as_asked_for():
    met = threading.Barrier(3, timeout=20)
    with Workers(3) as workers:
        assert sorted(workers.map(lambda _: met.wait(), range(3))) == [0, 1, 2]


def test_an_error_is_raised_where_the_result_is_asked_for_and_what_waits_is_dropped():
    called = []

    def work(n):
        called.append(n)
        time.sleep(0.05)
        raise KeyError(n)

    with pytest.raises(KeyError, match="0"), Workers(1) as workers:
        for _ in workers.map(work, range(100)):
            pass
    assert len(called) < 10 and threading.active_count() < 20


def test_a_thread_that_finds_no_memory_to_begin_is_an_error_and_no_hang(monkeypatch):
    """Python 3.11 waits for ever for one whose first steps raise MemoryError."""
    monkeypatch.setattr(background, "PATIENCE", 0.2)
    monkeypatch.setattr(background.Thread, "_bootstrap", lambda self: None)
    with pytest.raises(RuntimeError, match="can't start new thread"), Workers(2) as workers:
        workers.submit(str, 1)


def test_a_thread_that_is_lost_at_work_is_an_error_and_no_hang_though_another_is_there(monkeypatch):
    """As by a MemoryError between two calls, or while it says what came of one."""
    serve, begun = Workers._serve, []

    def serve_or_die(self):
        begun.append(self)
        self._calls.get() if len(begun) == 1 else serve(self)

    monkeypatch.setattr(workers, "WATCH", 0.1)
    monkeypatch.setattr(Workers, "_serve", serve_or_die)
    with pytest.raises(MemoryError), Workers(2) as readers:
        list(readers.map(str, range(5)))


class Batch:
    """What a call returns, and a weak reference can follow."""


def test_a_result_that_was_taken_is_not_kept_by_the_thread_that_made_it():
    with Workers(1) as readers:
        made = readers.submit(lambda _: Batch(), 0)()
        gone = weakref.ref(made)
        del made
        end = time.monotonic() + 5
        while gone() is not None and time.monotonic() < end:  # until the thread waits for the next call
            time.sleep(0.01)
        assert gone() is None
