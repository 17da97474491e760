"""A stochastic network with its noise fixed: every pass of a block draws the same random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from stochx.engine.seeds import digest

_SEED: ContextVar[int | None] = ContextVar("_SEED", default=None)


@contextlib.contextmanager
def realised(seed: int) -> Iterator[None]:
    """Let every pass in the block draw the noise of `seed`, so that a network is the same function in all of them.

    It holds for whole batches: an image has the same noise as long as it has the same place in a batch of the same
    size. Seeds that others set in the block have no effect.
    """
    token = _SEED.set(digest(seed, "realisation"))
    try:
        yield
    finally:
        _SEED.reset(token)


def is_realised() -> bool:
    """Return true in a block of `realised`."""
    return _SEED.get() is not None


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Run a pass of a network: with the noise of the block's seed, if there is one."""
    seed = _SEED.get()
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def is_reproducible(outputs: Callable[[], Tensor]) -> bool:
    """Return true if the network's outputs depend on the seed of torch's global generators alone."""
    with realised(0):
        return torch.equal(outputs(), outputs())
