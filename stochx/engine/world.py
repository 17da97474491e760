"""Ranks: one process, or many under `torchrun`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from stochx.errors import LostRankError
from stochx.interrupts import Stopped, waiting

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process among `size` of them."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True for the rank that writes and prints the result."""
        return self.rank == 0

    def gather(self, mine: list[T]) -> list[T]:
        """Concatenate the lists of all ranks, on every rank."""
        if self.size == 1:
            return mine
        parts: list[list[T]] = [[] for _ in range(self.size)]
        with _linked():
            dist.all_gather_object(parts, mine)
        return [item for part in parts for item in part]

    def leading(self, mine: T) -> T:
        """Return what the leading rank has, on every rank; all meet here.

        What is read from a folder that ranks write to has to be agreed upon: a rank that comes late sees more there.
        """
        return self.gather([mine] if self.leads else [])[0]


def sum_over_ranks(values: Tensor) -> None:
    """Sum a tensor over all ranks, in place."""
    with _linked():
        dist.all_reduce(values)


_store: Store | None = None  # of the process group; that of `torchrun` outlives every rank


@contextlib.contextmanager
def _linked() -> Iterator[None]:
    """Raise `LostRankError` where the link to another rank breaks in the block."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or _store is None:
            raise
        raise LostRankError(_is_said(_store)) from None


def _is_said(store: Store) -> bool:
    """Return whether another rank has told the user that the ranks end; if not, this one does."""
    with contextlib.suppress(RuntimeError):  # of a store that was lost with its rank
        return store.add("lost", 1) > 1
    return False


def rank() -> int:
    """Return the rank of this process from `torchrun`, before the process group exists."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the rank of this process on its machine, likewise."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def attempt() -> int:
    """Return how often `torchrun --max-restarts` has started the ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """Join the process group for the block: NCCL on CUDA, else gloo."""
    global _store
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    with waiting():
        store, own, size = next(rendezvous("env://"))
        _store = PrefixStore(f"attempt {attempt()}", store)  # which does not meet the ranks of an earlier one
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _linked():
            dist.init_process_group(backends, store=_store, rank=own, world_size=size)
    try:
        yield World(own, size)
    except (Exception, Stopped) as error:
        if own == 0 and _store is not None:  # the others lose their link to it, and have nothing to add
            said = _is_said(_store)
            if isinstance(error, Stopped):  # by `torchrun`, where another rank was lost
                error.said = said
        raise
    finally:
        _store = None
        dist.destroy_process_group()
