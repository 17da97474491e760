"""Simulate how often intervals cover the mean, and how often tables of equal methods show a difference.

    python benchmarks/coverage.py                  # writes docs/statistics.md, ten minutes on one core
    python benchmarks/coverage.py --samples 400    # a quick look

`interval` is what the commands print. Student's is what they would print if they ignored that values end at 0 and 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stochx.engine.io.store import write_text
from stochx.engine.statistics import (
    SHARE,
    Estimate,
    all_pairs,
    estimate,
    holm,
    interval,
    mean_difference,
    mean_share,
    paired_ps,
)

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def counts(p: float) -> tuple[Draw, float]:
    """Images that are right or wrong."""
    return lambda rng, size: (rng.random(size) < p).astype(float), p


def beta(a: float, b: float) -> tuple[Draw, float]:
    """A value in [0, 1] for each image."""
    return lambda rng, size: rng.beta(a, b, size), a / (a + b)


def draws(a: float, b: float, few: float = 1.0, others: float = 0.0) -> tuple[Draw, float]:
    """Shares of 32 right draws: a part `few` of the images has probability beta(a, b), the rest `others`."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        noisy = rng.random(size) < few
        return rng.binomial(32, np.where(noisy, rng.beta(a, b, size), others)) / 32

    return draw, few * a / (a + b) + (1 - few) * others


def differences(up: float, down: float) -> tuple[Draw, float]:
    """Parts `up` and `down` of the images on which only the first, or only the second, network is right."""

    def draw(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        luck = rng.random(size)
        return (luck < up).astype(float) - (luck > 1 - down)

    return draw, up - down


COUNTS = {f"counts, {p}": counts(p) for p in (0.02, 0.1, 0.5, 0.9)}
SHAPES = {
    "right or wrong in all draws, 0.1": counts(0.1),
    "right or wrong in all draws, 0.5": counts(0.5),
    "right or wrong in all draws, 0.98": counts(0.98),
    "draws, most images always right": draws(1, 3, 0.1, 1.0),
    "draws, most images always wrong": draws(3, 1, 0.1, 0.0),
    "draws, half right": draws(0.3, 0.3),
    "draws, few right": draws(0.5, 4),
    "beta(0.05, 0.95): long tail": beta(0.05, 0.95),
    "beta(0.2, 3)": beta(0.2, 3),
    "beta(0.5, 0.5): mass at both ends": beta(0.5, 0.5),
    "beta(1, 1): flat": beta(1, 1),
    "beta(9, 1)": beta(9, 1),
    "beta(50, 50): hardly varies": beta(50, 50),
    "0.1, with 0.05 at 1": (lambda rng, size: np.where(rng.random(size) < 0.05, 1.0, 0.1), 0.145),
    "0.5, with 0.05 at 0": (lambda rng, size: np.where(rng.random(size) < 0.05, 0.0, 0.5), 0.475),
}
DIFFERENCES = {f"better on {up}, worse on {down}": differences(up, down) for up, down in ((0.02, 0.0), (0.1, 0.05))}
SIZES = (10, 20, 50, 200)
METHODS = (2, 4, 8, 12)

TEXT = """\
# Statistics

Written by `benchmarks/coverage.py`; do not edit.

## Intervals

Every mean stands with n and the ends `low`, `high` of its 95 % interval over images, or over episodes. Which interval
depends on the kind of value (`stochx/engine/statistics.py`):

| values | interval | where |
|---|---|---|
| 0 or 1: right or wrong, hit or missed | Wilson (1927); 10 of 10 is 1.0 [0.722, 1.000] | accuracies without noise: \
`attack`, `train`, `distill` (noise off, teacher); `certify`; `pointing-game` |
| in [0, 1] | Student's, after 1.25 images are added at 0 and at 1; where all values are 0, or all are 1, Wilson's | \
accuracies of stochastic networks: `attack`, `distill`; `fsc-test`; metrics in [0, 1]: shares, probabilities |
| differences of accuracies of images, in [-1, 1] | the same, with images added at -1 and 1 | `attack --versus` |
| all others | Student's, cut at the bounds of the metric | other metrics; differences of `fsc-test --versus` |

The added images stand for what a small sample of a skewed distribution may lack. Student's interval covers the mean of
such values far too rarely, has no width where all values agree, and leaves [0, 1]. The price is width where values
hardly vary: ten equal values of 0.5 have ± 0.14; 600 with a standard deviation of 0.1, 5 % more than Student's.

Share of {samples:,} simulated samples whose interval holds the mean; 0.95 is nominal. First values of 0 or 1, with
Wilson's interval, whose coverage oscillates with n and the mean about 0.95 (Brown, Cai & DasGupta, 2001):

{counts}

Then shares, such as an image's share of right draws:

{shares}

And differences of two networks without noise on the same images:

{differences}

## Comparisons of methods

`score` compares methods on the same images by sign flips of their differences (Fisher, 1935), which is exact for every
n. `p` compares with the method with the best mean, which the values themselves have chosen: so it is adjusted (Holm,
1979) for all pairs of methods, not only for those with the best one. The star, `best`, says that the first method has
p < 0.05 against every other.

Share of {tables:,} simulated tables of equally good methods, on 20 images, in which some p is below 0.05, and with a
star:

| methods | some p, adjusted for the pairs with the best one | some p, as printed | a star |
|---|---|---|---|
{alarms}
"""


def coverage(make: Callable[[Sequence[float]], Estimate], law: tuple[Draw, float], n: int, samples: int) -> float:
    """Return the share of samples of n values whose interval holds the mean."""
    draw, mean = law
    found = [make(values) for values in draw(np.random.default_rng(n), (samples, n)).tolist()]
    return float(np.mean([e.low - 1e-12 <= mean <= e.high + 1e-12 for e in found]))


def coverage_rows(
    laws: Mapping[str, tuple[Draw, float]], make: Callable[[Sequence[float]], Estimate], samples: int
) -> list[str]:
    rows = []
    for name, law in laws.items():
        cells = [f"{coverage(m, law, n, samples):.3f}" for m in (make, estimate) for n in SIZES]
        rows.append(f"| {name} | {law[1]:.3g} | {' | '.join(cells)} |")
    return rows


def false_alarms(methods: int, n: int, samples: int) -> tuple[float, float, float]:
    """Return the shares of tables of equal methods with p < 0.05 against the best, alone and over all pairs; a star."""
    rng, alone, pairs, star = np.random.default_rng(methods), 0, 0, 0
    for _ in range(samples):
        image = rng.normal(size=n)
        values = {str(m): (image + rng.normal(size=n)).tolist() for m in range(methods)}
        best = max(values, key=lambda m: sum(values[m]))
        gaps = [[a - b for a, b in zip(values[best], values[m], strict=True)] for m in values if m != best]
        against = [p for pair, p in all_pairs(values).items() if best in pair]
        alone += min(holm(paired_ps(gaps))) < 0.05
        pairs += min(against) < 0.05
        star += max(against) < 0.05
    return alone / samples, pairs / samples, star / samples


def page(samples: int, tables: int) -> str:
    sizes = [f"n = {n}" for n in SIZES]
    head = ["|  | mean | " + " | ".join([*sizes, *(f"Student, {n}" for n in SIZES)]) + " |", "|---" * 10 + "|"]
    return TEXT.format(
        samples=samples,
        tables=tables,
        counts="\n".join([*head, *coverage_rows(COUNTS, partial(interval, bounds=SHARE), samples)]),
        shares="\n".join([*head, *coverage_rows(SHAPES, mean_share, samples)]),
        differences="\n".join([*head, *coverage_rows(DIFFERENCES, mean_difference, samples)]),
        alarms="\n".join(
            f"| {k} | " + " | ".join(f"{share:.3f}" for share in false_alarms(k, 20, tables)) + " |" for k in METHODS
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--tables", type=int, default=2_000)
    parser.add_argument("--page", type=Path, default=Path("docs/statistics.md"))
    args = parser.parse_args()
    write_text(args.page, page(args.samples, args.tables))


if __name__ == "__main__":
    main()
