"""Randomness that depends on what is computed, not on where or when."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Key = str | int


def digest(*keys: Key) -> int:
    """Return a 63-bit number that depends on the keys alone, the same on every machine."""
    raw = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1


def generator(*keys: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device` whose draws depend on the keys alone."""
    return torch.Generator(device).manual_seed(digest(*keys))


@contextmanager
def seeded(seed: int, *keys: Key) -> Iterator[None]:
    """Seed all torch randomness of the block with `(seed, *keys)`, and restore the global state afterwards.

    For randomness inside a network (noise layers, dropout), which accepts no generator.
    """
    with torch.random.fork_rng():
        torch.manual_seed(digest(seed, *keys))
        yield
