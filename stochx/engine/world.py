"""Ranks: one process, or many under `torchrun`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

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
        dist.all_gather_object(parts, mine)
        return [item for part in parts for item in part]


def rank() -> int:
    """Return the rank of this process from `torchrun`, before the process group exists."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the rank of this process on its machine, likewise."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """Join the process group for the block: NCCL on CUDA, else gloo."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
