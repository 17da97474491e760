"""Verdicts on claims that one arm withstands attacks better than another, from the results of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from units import Result

from stochx.engine.power import power_of
from stochx.engine.statistics import SIGNIFICANT, Estimate, estimate, holm, mean_difference, paired_p


@dataclass(frozen=True)
class Claim:
    """Arm `first` is more robust than arm `second` under each of the `ways` to attack."""

    first: str
    second: str
    ways: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """First minus second under one way to attack: the mean over seeds of each image, and the mean of each seed."""

    way: str
    mean: Estimate
    seeds: Sequence[float]
    p: float  # adjusted for all differences of the page
    detectable: float | None  # the smallest difference that is found in four of five cases

    @property
    def over_seeds(self) -> Estimate:
        """The mean with its interval over training seeds."""
        return estimate(self.seeds, (-1.0, 1.0))

    @property
    def sign(self) -> int:
        """1 or -1 for a significant difference that all seeds share, else 0."""
        if self.p >= SIGNIFICANT or self.mean.low <= 0 <= self.mean.high:
            return 0
        return next((s for s in (1, -1) if all(s * value > 0 for value in (self.mean.mean, *self.seeds))), 0)


@dataclass(frozen=True)
class Verdict:
    """A claim with its differences: it is `supported` or `refuted` where all of them agree, else `undecided`."""

    claim: Claim
    differences: Sequence[Difference]

    @property
    def word(self) -> str:
        """The verdict in one word."""
        signs = {difference.sign for difference in self.differences}
        return {frozenset({1}): "supported", frozenset({-1}): "refuted"}.get(frozenset(signs), "undecided")

    @property
    def detectable(self) -> float | None:
        """The difference that would have been found under every attack; None if there is none."""
        values = [difference.detectable for difference in self.differences]
        return None if None in values else max(value for value in values if value is not None)


def gaps(first: Result, second: Result, way: str, other: str | None = None) -> list[float]:
    """Return first minus second by image, under `way`; the second under another way, where one is given."""
    return [a - b for a, b in zip(first.right[way], second.right[other or way], strict=True)]


def judge(claims: Sequence[Claim], results: Sequence[Result]) -> list[Verdict]:
    """Return the verdicts on all claims whose arms have a seed in common, with Holm's correction over the page."""
    by_unit = {(result.arm, result.seed): result for result in results}
    seeds = sorted({result.seed for result in results})
    cases = []
    for claim in claims:
        pairs = [(by_unit.get((claim.first, seed)), by_unit.get((claim.second, seed))) for seed in seeds]
        whole = [(a, b) for a, b in pairs if a is not None and b is not None]
        if whole:
            cases += [(claim, way, [gaps(a, b, way) for a, b in whole]) for way in claim.ways]
    means = [[sum(image) / len(image) for image in zip(*by_seed, strict=True)] for _, _, by_seed in cases]
    adjusted = holm([paired_p(values) for values in means])
    differences: dict[Claim, list[Difference]] = {}
    for (claim, way, by_seed), values, p in zip(cases, means, adjusted, strict=True):
        power = power_of(values, tests=len(cases))
        found = Difference(
            way,
            mean_difference(values),
            [sum(gap) / len(gap) for gap in by_seed],
            p,
            None if power is None else power.detectable,
        )
        differences.setdefault(claim, []).append(found)
    return [Verdict(claim, found) for claim, found in differences.items()]
