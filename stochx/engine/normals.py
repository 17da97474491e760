"""Standard normal draws, on a CPU from 16 random bits each."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

FEW = 2**15  # below this number of values torch's own generator is faster
TAILS = 2.0**-10  # share of the values that lie in the two tails


def standard_normal(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return independent N(0, 1) draws, repeatable by the seed of torch's global generator.

    Noise is much of the work of a stochastic network, so that a CPU takes a shorter way than `torch.randn`: 16 bits
    choose one of 65,536 equally likely quantiles of the normal between its tails, |z| < 3.3, where they lie at most
    0.01 apart. Values in the tails are exact: they come at the times of a Poisson process, so that each place has one
    with probability 2^-10, independently of the others.
    """
    count = math.prod(shape)
    if device.type != "cpu" or count < FEW:
        return torch.randn(shape, dtype=dtype, device=device)
    random = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
    bits = random.bit_generator.random_raw(-(-count // 4)).view(np.uint16)[:count]
    draws = _quantiles(dtype).index_select(0, torch.from_numpy(bits.astype(np.int32)))
    tails = random.poisson(-count * math.log1p(-TAILS))
    places, levels = random.integers(count, size=tails), random.random(tails) * TAILS
    draws[torch.from_numpy(places)] = torch.special.ndtri(torch.from_numpy((levels - TAILS / 2) % 1.0)).to(dtype)
    return draws.view(shape)


@cache
def _quantiles(dtype: torch.dtype) -> Tensor:
    """Return 65,536 equally likely quantiles of the normal without its tails."""
    levels = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(TAILS / 2 + (1 - TAILS) * levels)
    return quantiles.to(dtype)
