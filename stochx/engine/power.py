"""The power of a comparison: the smallest difference found in four of five cases, and the sample that one takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from stochx.engine.statistics import SIGNIFICANT

POWER = 0.8
_QUANTILE = NormalDist().inv_cdf


@dataclass(frozen=True)
class Power:
    """What a comparison of `n` values with the standard deviation `sd` of their differences can find.

    `detectable` is the smallest difference that it finds with p < 0.05 in four of five cases, with Holm's correction
    for `tests` comparisons; None where n is too small for any, or where nothing varies. `needed` is how many values a
    difference of `delta` takes; None without one.
    """

    n: int
    sd: float
    tests: int
    detectable: float | None
    delta: float | None
    needed: int | None


def power_of(differences: Sequence[float], tests: int = 1, delta: float | None = None) -> Power | None:
    """Return the power of a comparison whose paired differences are these; None for fewer than two."""
    return None if len(differences) < 2 else power(stdev(differences), len(differences), tests, delta)


def power_of_two(values: Sequence[float], delta: float | None = None) -> Power | None:
    """Return the power of a comparison with as many other values that vary as much: sd = sqrt(2) that of `values`."""
    return None if len(values) < 2 else power(math.sqrt(2) * stdev(values), len(values), 1, delta)


def power(sd: float, n: int, tests: int = 1, delta: float | None = None) -> Power:
    """Return the power at a standard deviation of differences, by the normal approximation.

        n = (z_{1-a/2} + z_{0.8})^2 (sd / delta)^2 + z_{1-a/2}^2 / 2,   a = 0.05 / tests

    The last term is for the estimate of the standard deviation (Guenther, 1981). Sign flips of n differences have
    p >= 2 / 2^n, so with fewer than log2(2 / a) + 1 values nothing is significant.
    """
    level = SIGNIFICANT / tests
    z = _QUANTILE(1 - level / 2)
    factor, least = (z + _QUANTILE(POWER)) * sd, math.floor(math.log2(2 / level)) + 1
    detectable = factor / math.sqrt(n - z * z / 2) if sd > 0 and n >= least and n > z * z / 2 else None
    needed = None if delta is None else max(least, math.ceil((factor / delta) ** 2 + z * z / 2))
    return Power(n, sd, tests, detectable, delta, needed)


def draws_for(found: Power, one_draw: float, draws: int) -> int | None:
    """Return how many draws a value make the same n values find `delta`; None if they do, or if no number does.

    The values are means over `draws` draws, and `one_draw` is the variance of their differences with one, less that
    with infinitely many.
    """
    if found.delta is None or (found.detectable is not None and found.detectable <= found.delta):
        return None
    z = _QUANTILE(1 - SIGNIFICANT / found.tests / 2)
    largest = max(0.0, found.n - z * z / 2) * (found.delta / (z + _QUANTILE(POWER))) ** 2
    left = largest - max(0.0, found.sd**2 - one_draw / draws)
    return math.ceil(one_draw / left) if left > 0 and one_draw > 0 else None
