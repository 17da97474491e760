"""Fingerprints of images as a network sees them, by which those that it was trained on are recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def fingerprint(pixels: Tensor) -> int:
    """Return a 64-bit hash of an image (3, H, W), uint8 or floats in [0, 1] that are rounded to 8 bits."""
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().to(torch.uint8)
    content = repr(tuple(pixels.shape)).encode() + pixels.cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def fingerprints(images: Iterable[Tensor]) -> Tensor:
    """Return the different fingerprints of images (3, H, W), sorted: (n,) int64."""
    return torch.tensor(sorted({fingerprint(pixels) for pixels in images}), dtype=torch.int64)


def union(*parts: Tensor) -> Tensor:
    """Return all fingerprints of several trainings, sorted."""
    return torch.tensor(sorted({value for part in parts for value in part.tolist()}), dtype=torch.int64)


def to_bytes(known: Tensor) -> bytes:
    """Return fingerprints as bytes, 8 each, the same on every machine."""
    return known.numpy().astype("<i8").tobytes()


def from_bytes(content: bytes) -> Tensor:
    """Return the fingerprints in `content`, sorted; raises `ValueError` for one that was cut."""
    values: Tensor = torch.from_numpy(np.sort(np.frombuffer(content, "<i8").astype(np.int64)))
    return values
