"""Randomness that depends on what is computed, never on where or when."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Key = str | int


def digest(*keys: Key) -> int:
    """A 63-bit number that depends on the keys alone, the same on every machine."""
    raw = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1


def generator(*keys: Key, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` whose draws depend on the keys alone."""
    return torch.Generator(device).manual_seed(digest(*keys))


@contextmanager
def seeded(seed: int, *keys: Key) -> Iterator[None]:
    """Make all torch randomness inside depend only on `(seed, *keys)`; the global state returns after.

    It is for randomness that sits inside a network (noise layers, dropout) and takes no generator.
    """
    with torch.random.fork_rng():
        torch.manual_seed(digest(seed, *keys))
        yield
