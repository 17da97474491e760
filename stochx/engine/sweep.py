"""Batched evaluation of many items: sharded by rank, resumable, with the next batch loading in the background."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from itertools import zip_longest
from typing import TypeVar

from stochx import interrupts
from stochx.engine.workers import Workers
from stochx.engine.world import World

L = TypeVar("L")
R = TypeVar("R")

MIN_BATCHES = 8  # at least this many batches, so that ranks share small jobs and interrupts lose little

_FEWEST: ContextVar[int] = ContextVar("_FEWEST", default=MIN_BATCHES)


@contextlib.contextmanager
def large_batches() -> Iterator[None]:
    """Cut small jobs of the block into as few batches as fit, of the size that those of large jobs have."""
    token = _FEWEST.set(1)
    try:
        yield
    finally:
        _FEWEST.reset(token)


def canonical_batches(count: int, rows: int) -> list[range]:
    """Split 0..count into batches that depend on these two numbers alone, not on the number of ranks."""
    size = max(1, min(rows, math.ceil(count / _FEWEST.get())))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def sweep(
    count: int,
    rows: int,
    load: Callable[[range], L],
    work: Callable[[range, L], list[R]],
    world: World,
    done: Collection[int] = (),
    report: Callable[[list[R], int], None] = lambda results, items: None,
) -> list[R]:
    """Run `work` on every batch that is not entirely `done`, each on one rank; return the results of all ranks.

    `load(batch)` runs in the background during the previous batch. `report(results, items)` is called after each batch
    of this rank, so that results can be stored before an interrupt. What is done is what the leading rank says.
    """
    done = world.leading({*done})
    batches = [b for b in canonical_batches(count, rows) if not all(i in done for i in b)]
    mine = batches[world.rank :: world.size]
    results: list[R] = []
    with Workers(1) as loader:
        ahead = loader.submit(load, mine[0]) if mine else None
        for batch, following in zip_longest(mine, mine[1:]):
            interrupts.check()
            assert ahead is not None
            loaded = ahead()
            ahead = loader.submit(load, following) if following is not None else None
            batch_results = work(batch, loaded)
            results += batch_results
            report(batch_results, len(batch))
    return world.gather(results)
