"""Gaussian noise on images of 8 bits, drawn exactly on the grid of their values (Voracek & Hein, 2023).

A certificate in floating point may be false: x + eps is rounded otherwise at x than at x', so that the two are not
shifts of one distribution. A network that first rounds to the grid has none of this,

    f(g(x + eps)),  g(z) = clip(round(255 z) / 255, -k, k + 1),  k = max(1, floor(6 sigma)),  eps ~ N(0, sigma^2)

since x lies on the grid, and 255 g(x + eps) is x's own integer plus that of the noise. These integers are drawn from
their exact probabilities: uniform ones of 60 bits are compared with those of the thresholds (2 i + 1) / 510.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import torch
from torch import Tensor

LEVELS = 255  # steps of the grid from 0 to 1
BITS, COARSE = 60, 16  # of a uniform number; the first of them, by which a table decides
FINE = BITS - COARSE
WHOLE = 1 << BITS
DIVIDED = -(2**15)  # entry of the table where a threshold divides the numbers that begin with these 16 bits
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@dataclass(frozen=True, eq=False)
class GridNoise:
    """Noise in steps of 1/255: `thresholds` (T,) int64 are floor(2^60 Phi((2 i + 1) / (510 sigma))), i = -T/2, ...

    `table` (65536,) int16 holds the step of every number by its first 16 bits, or that these do not decide it: no more
    than one number in T / 65536, in which the others are drawn too. `reach` is k.
    """

    thresholds: Tensor
    table: Tensor
    reach: int

    @property
    def slack(self) -> float:
        """Total variation between a step's distribution and the exact one, at most.

        Each threshold is off by less than 2^-60.
        """
        return len(self.thresholds) * math.ldexp(1, -BITS)

    def steps(self, shape: Sequence[int], source: torch.Generator) -> Tensor:
        """Draw steps (*shape), int16, on the CPU or CUDA device of `source`."""
        count = math.prod(shape)
        words = torch.empty(-(-count // 4), dtype=torch.int64, device=source.device)
        words.random_(-(2**63), None, generator=source)  # all 2^64 numbers
        first = words.view(torch.int16)[:count].int().bitwise_and_(2**COARSE - 1)
        steps = self.table.to(source.device).index_select(0, first)
        undecided = _undecided(steps)
        others = torch.randint(2**FINE, (len(undecided),), generator=source, device=source.device)
        steps[undecided] = self.step_of((first[undecided].long() << FINE) + others)
        return steps.view(*shape)

    def step_of(self, numbers: Tensor) -> Tensor:
        """Return the steps, int16, of uniform numbers of 60 bits."""
        lowest = -(len(self.thresholds) // 2)
        return (lowest + torch.searchsorted(self.thresholds.to(numbers.device), numbers, right=True)).to(torch.int16)


def _undecided(steps: Tensor) -> Tensor:
    """Return the places of steps that the table does not decide; on a CPU torch would take as long as for the rest."""
    if steps.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(steps.numpy() == DIVIDED))
    return (steps == DIVIDED).nonzero().flatten()


@functools.cache
def grid_noise(sigma: float) -> GridNoise:
    """Return the noise of standard deviation `sigma`, in pixel units."""
    reach = max(1, math.floor(6 * sigma))
    most = LEVELS * (reach + 1)  # beyond, every step is clipped
    upper = [_scaled_normal_cdf(2 * i + 1, sigma) for i in range(most)]
    lower = [WHOLE - 1 - value for value in reversed(upper)]  # floor(2^60 - a) = 2^60 - floor(a) - 1: none is whole
    thresholds = torch.tensor(lower + upper)
    starts = torch.arange(2**COARSE) << FINE
    noise = GridNoise(thresholds, torch.empty(0), reach)
    table, last = noise.step_of(starts), noise.step_of(starts + 2**FINE - 1)
    return GridNoise(thresholds, table.where(table == last, DIVIDED), reach)


def _scaled_normal_cdf(odd: int, sigma: float) -> int:
    """Return floor(2^60 Phi(z)), z = odd / (510 sigma) > 0, from a series whose terms are all positive.

    Phi(z) = 1/2 + phi(z) sum_n z^(2 n + 1) / (1 * 3 * ... * (2 n + 1))
    """
    with localcontext() as context:
        context.prec = 45
        z = Decimal(odd) / (2 * LEVELS * Decimal(sigma))
        if z > 10:  # 1 - Phi(10) = 7.6e-24 = 2^-76
            return WHOLE - 1
        total, term, n = Decimal(0), z, 0
        while term > total * Decimal("1e-40"):
            total += term
            n += 1
            term *= z * z / (2 * n + 1)
        density = (-z * z / 2).exp() / (2 * PI).sqrt()
        return math.floor((Decimal("0.5") + density * total) * WHOLE)


@dataclass(frozen=True, eq=False)
class NoisyCopies:
    """Noisy copies g(x + eps) of an image: `steps` (C, H, W) int16 are its values, `noises` one, or one per channel."""

    steps: Tensor
    noises: Sequence[GridNoise]

    @classmethod
    def of(cls, image: Tensor, sigma: Sequence[float]) -> NoisyCopies:
        """Make the copies of an image (C, H, W) of 8 bits; `sigma` is one number, or one per channel."""
        return cls((image * LEVELS).round().to(torch.int16), [grid_noise(value) for value in sigma])

    @property
    def slack(self) -> float:
        """Total variation between a copy's distribution and the exact one, at most: the sum over its pixels."""
        return sum(noise.slack for noise in self.noises) * self.steps.numel() / len(self.noises)

    def draw(self, count: int, source: torch.Generator) -> Tensor:
        """Return copies (count, C, H, W) in steps of 1/255, int16, on the device of `source`."""
        steps = self.steps.to(source.device)
        parts = zip(self.noises, steps.chunk(len(self.noises)), strict=True)
        copies = [
            noise.steps((count, *part.shape), source)
            .add_(part)
            .clamp_(-LEVELS * noise.reach, LEVELS * (noise.reach + 1))
            for noise, part in parts
        ]
        return copies[0] if len(copies) == 1 else torch.cat(copies, 1)
