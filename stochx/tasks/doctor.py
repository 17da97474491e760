"""The speed of a device: convolutions and matrix products per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SECONDS = 0.4  # for each measurement
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROWS, CHANNELS, SIDE, TAPS = 8, 64, 56, 9  # a 3x3 convolution of ResNet-50; a GPU gets more rows
GPU_ROWS = 256
SQUARE, GPU_SQUARE = 1024, 8192  # side of the matrices


@dataclass(frozen=True)
class Speed:
    """Operations per second of one kind, in a precision; None where the device cannot do them."""

    name: str
    precision: str
    gflops: float | None


def measure_speed(device: torch.device) -> Iterator[Speed]:
    """Measure 3x3 convolutions and matrix products, each in float32 and bfloat16; a multiplication and a sum are two.

    The best time counts: other processes can only slow a device down.
    """
    rows, side = (GPU_ROWS, GPU_SQUARE) if device.type == "cuda" else (ROWS, SQUARE)
    for precision, dtype in TYPES.items():
        x = torch.randn(rows, CHANNELS, SIDE, SIDE, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device, dtype=dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        work = 2.0 * rows * SIDE**2 * CHANNELS**2 * TAPS
        yield Speed("convolution", precision, _rate(work, lambda x=x, w=weight: F.conv2d(x, w, padding=1)))  # type: ignore[misc]
    for precision, dtype in TYPES.items():
        a = torch.randn(side, side, device=device, dtype=dtype)
        yield Speed("matrix product", precision, _rate(2.0 * side**3, lambda a=a: a @ a))  # type: ignore[misc]


@torch.inference_mode()
def _rate(operations: float, work: Callable[[], Tensor]) -> float | None:
    """Return the billions of operations per second of `work`, which does `operations`."""
    try:
        work()
    except RuntimeError:  # the device has no such kernel
        return None
    best, moment = float("inf"), time.perf_counter()
    end = moment + SECONDS
    while True:
        start = moment
        work().flatten()[0].item()  # waits for the device
        moment = time.perf_counter()
        best = min(best, moment - start)
        if moment > end:
            return operations / best / 1e9
