"""Statistics of finite samples: means with intervals, a paired test, and correction for multiple tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from stochx.engine.seeds import generator

EXACT = 14  # up to this many differences, all sign patterns are enumerated
FLIPS = 20_000  # number of sign patterns drawn above that
SIGNIFICANT = 0.05
CHUNK = 256  # differences whose signs are in memory at once
LOG_ERROR = 1e-8  # of the logarithm of a binomial tail by rounding, at most, for up to 1e6 draws: lgamma is near 1e7


@dataclass(frozen=True)
class Estimate:
    """A mean over n values, and the ends of its 95 % interval: NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.mean:.4f}{interval}, n = {self.n}"

    def _repr_html_(self) -> str:
        return str(self)


Bounds = tuple[float, float]  # the least and the greatest value that is possible

UNBOUNDED: Bounds = (-math.inf, math.inf)
SHARE: Bounds = (0.0, 1.0)
Z2 = 1.959964**2  # square of the 0.975 quantile of the normal distribution
UNSEEN = 1.25  # images that `mean_share` adds at either end


def interval(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Return the mean with its 95 % interval: that of a share for values in [0, 1], else Student's within `bounds`.

    Values of 0 and 1 alone are counts. A single value has no interval: its ends are NaN.
    """
    if len(values) < 2:
        return estimate(values)
    if bounds != SHARE:
        return estimate(values, bounds)
    return share(values, counts=all(value in SHARE for value in values))


def share(values: Sequence[float], counts: bool) -> Estimate:
    """Return the mean of values in [0, 1] with its interval: `wilson`'s for `counts`, which are 0 or 1 by nature.

    An accuracy is one of counts, unless the network is stochastic: then the images' values are shares of right draws.
    """
    return wilson(round(sum(values)), len(values)) if counts else mean_share(values)


def wilson(successes: int, n: int) -> Estimate:
    """Return the share of successes with Wilson's score interval (1927), which is valid near 0 and 1.

    Its coverage depends on the share and on n: from .915 to .98 at shares of .1 to .5 and n >= 10, 95 % on average.
    """
    share = successes / n
    centre = (share + Z2 / (2 * n)) / (1 + Z2 / n)
    half = math.sqrt(Z2 * (share * (1 - share) / n + Z2 / (4 * n * n))) / (1 + Z2 / n)
    return _within(SHARE, share, centre - half, centre + half, n)


def dkw_half(n: int, alpha: float = 0.05) -> float:
    """Return half the width of the band around the shares of n values beyond every threshold, at all of them at once.

    sqrt(ln(2 / alpha) / 2 n),  Dvoretzky, Kiefer & Wolfowitz (1956), with the constant of Massart (1990)
    """
    return math.sqrt(math.log(2 / alpha) / (2 * n))


def clopper_pearson(successes: int, n: int, alpha: float) -> float:
    """Return the lower end of the exact one-sided interval of a probability (Clopper & Pearson, 1934).

        p = sup {p : P(Bin(n, p) >= k) <= alpha} = Beta^-1(alpha; k, n - k + 1)

    It exceeds the true probability in a share of at most alpha of all samples, whatever n.
    """
    if successes == 0:
        return 0.0
    k = torch.arange(successes, n + 1, dtype=torch.float64)
    size = torch.tensor(n, dtype=torch.float64)
    log_choose = torch.lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    level = math.log(alpha) - LOG_ERROR
    low, high = 0.0, 1.0
    while low < (p := (low + high) / 2) < high:
        tail = torch.logsumexp(log_choose + k * math.log(p) + (size - k) * math.log1p(-p), 0)
        low, high = (p, high) if tail <= level else (low, p)
    return low


def mean_share(values: Sequence[float]) -> Estimate:
    """Return the mean of values in [0, 1], such as each image's share of right draws, with its 95 % interval.

    Where all values are 0, or all are 1, it is Wilson's. Else w = 1.25 images are added at either end, since a small
    sample of a skewed distribution may lack its tail:

        m~ = (sum v + w) / n~,  n~ = n + 2 w,  s~^2 = (sum (v - m~)^2 + w (m~^2 + (1 - m~)^2)) / n~,
        m~ +- t_{n-1} s~ / sqrt(n~), cut at 0 and 1

    It covers the mean in at least 93 % of samples of ten or more (docs/statistics.md), where Student's interval falls
    to 65 %, and has no width if all values agree. The price is width for values that hardly vary.
    """
    if values and values[0] in SHARE and all(value == values[0] for value in values):
        return wilson(round(sum(values)), len(values))
    return _padded(values, SHARE)


def mean_difference(values: Sequence[float]) -> Estimate:
    """Return the mean of differences of two shares, in [-1, 1], with the interval of `mean_share` for this range."""
    return _padded(values, (-1.0, 1.0))


def _padded(values: Sequence[float], bounds: Bounds) -> Estimate:
    """Return the interval of `mean_share` without its special case, for values between any `bounds`."""
    n, size = len(values), len(values) + 2 * UNSEEN
    if n < 2:
        return _within(bounds, sum(values) / n, *bounds, n) if n else Estimate(math.nan, math.nan, math.nan, 0)
    centre = (sum(values) + UNSEEN * sum(bounds)) / size
    spread = sum((v - centre) ** 2 for v in values) + UNSEEN * sum((end - centre) ** 2 for end in bounds)
    half = student(n - 1) * math.sqrt(spread) / size
    return _within(bounds, sum(values) / n, centre - half, centre + half, n)


def estimate(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Return the mean of `values` and its interval by Student's t, cut at `bounds`.

    A single value has none: the ends are NaN, or the bounds if both are finite.
    """
    n = len(values)
    mean = sum(values) / n if n else math.nan
    if n < 2:
        return Estimate(mean, *(bounds if n and all(map(math.isfinite, bounds)) else (math.nan, math.nan)), n)
    half = student(n - 1) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return _within(bounds, mean, mean - half, mean + half, n)


def _within(bounds: Bounds, mean: float, low: float, high: float, n: int) -> Estimate:
    """Cut an interval at the bounds; it keeps the mean, which may lie beyond them by rounding, or beside its centre."""
    return Estimate(mean, min(mean, max(bounds[0], low)), max(mean, min(bounds[1], high)), n)


def student(freedom: int) -> float:
    """Return the 0.975 quantile of Student's t: the Cornish-Fisher expansion about the normal one, tabled below 5."""
    if freedom <= 4:
        return (12.706205, 4.302653, 3.182446, 2.776445)[freedom - 1]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** k for k, term in enumerate(terms, 1))


def paired_p(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p-value of "the differences have mean zero" by sign flips (Fisher, 1935).

        p = share of sign patterns s with |sum_i s_i d_i| >= |sum_i d_i|

    If two methods are equivalent, a difference is as likely as its negative: then p <= a with probability at most a,
    for every n. A bootstrap guarantees this for large n only: in a simulation of 4,000 sets of normal differences with
    mean zero, its 95 % percentile interval excluded zero in 14 % (n = 6), 10 % (n = 10) and 7 % (n = 20).
    All 2^n patterns are enumerated up to n = 14, hence p >= 2 / 2^n: fewer than 6 differences are never significant
    at 0.05. Above that, 20,000 are drawn, plus the identity. NaN for fewer than two differences, or non-finite ones.
    """
    return paired_ps([differences], seed)[0]


def paired_ps(sets: Sequence[Sequence[float]], seed: int = 0) -> list[float]:
    """Return `paired_p` of several sets of equally many differences, which share their sign patterns."""
    d = torch.tensor(sets, dtype=torch.float64).T
    if len(d) < 2:
        return [math.nan] * len(sets)
    valid = d.isfinite().all(0)
    d = d.where(valid, 0.0)
    exact = len(d) <= EXACT
    sums = _all_sums(d) if exact else _drawn_sums(d, seed)
    ties = 1e-12 * d.abs().sum(0)  # sums that differ by the order of summation are equal
    extreme = (sums.abs() >= d.sum(0).abs() - ties).sum(0).double()
    p = extreme / len(sums) if exact else (1 + extreme) / (1 + len(sums))
    return p.where(valid, math.nan).tolist()


def _all_sums(d: torch.Tensor) -> torch.Tensor:
    """Return the signed sums (2^n, M) of M sets of differences (n, M) under all sign patterns."""
    patterns = torch.arange(2 ** len(d))[:, None] >> torch.arange(len(d)) & 1
    return (1 - 2 * patterns).to(d) @ d


def _drawn_sums(d: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the signed sums (FLIPS, M) of (n, M) under random sign patterns, which depend on the seed and n alone."""
    source = generator(seed, "sign flips", len(d))
    sums = d.new_zeros(FLIPS, d.shape[1])
    for chunk in torch.split(d, CHUNK):
        sums += (1 - 2 * torch.randint(2, (FLIPS, len(chunk)), generator=source, dtype=torch.int8)).to(d) @ chunk
    return sums


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests: at p~ <= a, the probability to reject any true hypothesis is at most a.

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))   for p_(1) <= ... <= p_(m)

    Holm (1979); valid under any dependence between the tests. NaN, for a test that was not made, stays NaN.
    """
    tests = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    adjusted, largest = list(p), 0.0
    for rank, (value, place) in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * value))
        adjusted[place] = largest
    return adjusted


def is_significant(p: float | None, low: float | None, high: float | None) -> bool | None:
    """Return true for a p below 0.05; without p, for an interval of a difference without zero; None without either."""
    if p is not None:
        return p < SIGNIFICANT
    return None if low is None or high is None else not low <= 0 <= high


def all_pairs(values: Mapping[str, Sequence[float]], seed: int = 0) -> dict[frozenset[str], float]:
    """Return the p-value of every pair of methods, whose `values` are paired, adjusted by `holm` over all pairs.

    So it holds for whichever pairs one looks at, also for those with the method that turned out best.
    """
    pairs = list(itertools.combinations(values, 2))
    differences = [[a - b for a, b in zip(values[x], values[y], strict=True)] for x, y in pairs]
    adjusted = holm(paired_ps(differences, seed)) if pairs else []
    return {frozenset(pair): p for pair, p in zip(pairs, adjusted, strict=True)}
