"""Warnings of maps that are mostly noise, or incomplete, and of certificates, with the setting that would help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stochx.attributions import Attribution
from stochx.tasks.certify import Overview, Smoothing

NOISY = 0.5  # relative Monte-Carlo error of a map: two such maps with other draws correlate by 1 / (1 + 0.5^2) = 0.8
GOAL = 0.3  # the error that a remedy aims at: a correlation of 0.92, where maps look alike
HOPELESS = 3.0  # error above which an extrapolation to `GOAL` is a guess: the halves of the draws share almost nothing
INCOMPLETE = 0.25  # share of the logit that a complete map may miss; IG is taken to have converged at 0.05
ABSTAINING = 0.5  # share of images without a certificate: networks trained with the noise abstain on 4 to 29 %
FULL = 0.5  # share of the right images whose draws all agree, so that only their number limits the radius

Doubt = Literal["noisy", "incomplete"]


class Measured(Protocol):
    """A row with the accuracy of a map, as far as it is known."""

    @property
    def method(self) -> str: ...
    @property
    def error(self) -> float | None: ...
    @property
    def gap(self) -> float | None: ...
    @property
    def logit(self) -> float: ...


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a map that has no row of its own."""

    method: str
    error: float | None
    gap: float | None
    logit: float


def doubt(row: Measured) -> Doubt | None:
    """Return why a map should not be read as it is; None where nothing speaks against it."""
    if row.error is not None and row.error > NOISY:
        return "noisy"
    if row.gap is not None and abs(row.gap) > INCOMPLETE * abs(row.logit):
        return "incomplete"
    return None


def doubts(rows: Sequence[Measured], methods: Mapping[str, Attribution], draws: int | None = None) -> list[str]:
    """Return a warning for each method with doubtful maps: how many, the worst, and the setting that would mend it.

    `draws` is that of a stochastic network, whose noise is averaged over; None for other networks.
    """
    warnings = []
    for name, method in methods.items():
        own = [row for row in rows if row.method == name]
        for kind, describe in (("noisy", _noisy), ("incomplete", _incomplete)):
            doubtful = [row for row in own if doubt(row) == kind]
            if doubtful:
                share = "the map" if len(own) == 1 else f"{len(doubtful)} of {len(own)} maps"
                warnings.append(f"`{name}`: {share} {describe(doubtful, method, draws)}")
    return warnings


def certificate_doubts(overview: Overview, smoothing: Smoothing) -> list[str]:
    """Return warnings of certificates that a network trained with the noise, or more draws, would improve."""
    warnings = []
    if overview.abstained > ABSTAINING:
        warnings.append(
            f"the vote abstains on {overview.abstained:.0%} of the images: certify a network under noise that it was "
            "trained with, as by `stochx distill --noise gaussian:site=input,first=1 --adversarial none`"
        )
    if overview.full > FULL:
        warnings.append(
            f"on {overview.full:.0%} of the certified images all draws agree: `--draws {10 * smoothing.draws}` would "
            "certify larger radii"
        )
    return warnings


def fewest_images(methods: int, level: float = 0.05) -> int:
    """Return how many images a best method needs to be significantly better than all others.

    The p-value of a sign-flip test over n images is 2 / 2^n at least, and Holm multiplies it by the pairs of methods.
    """
    pairs = max(1, math.comb(methods, 2))
    return math.floor(math.log2(2 * pairs / level)) + 1


def _noisy(rows: Sequence[Measured], method: Attribution, draws: int | None) -> str:
    error = max(row.error or 0.0 for row in rows)
    key = "--draws" if draws else getattr(method, "sampled", "")
    text = f"{_verb(rows)} mostly noise, with a Monte-Carlo error of {_worst(rows)}{error:.2f}"
    if not key:
        return text
    if error > HOPELESS:
        return f"{text}: use many more draws, with `{key}`"
    count = _round_up((draws or getattr(method, key)) * (error / GOAL) ** 2)
    return f"{text}: `{key}{' ' if draws else '='}{count}` would bring it to {GOAL}"


def _incomplete(rows: Sequence[Measured], method: Attribution, draws: int | None) -> str:
    worst = max(rows, key=lambda row: abs(row.gap or 0.0) / max(abs(row.logit), 1e-9))
    text = f"{_verb(rows)} incomplete, with a gap of {_worst(rows)}{worst.gap:+.2f} at a logit of {worst.logit:.2f}"
    remedy = getattr(method, "remedy", "")
    return f"{text}: {remedy}" if remedy else text


def _verb(rows: Sequence[Measured]) -> str:
    return "is" if len(rows) == 1 else "are"


def _worst(rows: Sequence[Measured]) -> str:
    return "" if len(rows) == 1 else "up to "


def _round_up(count: float) -> int:
    """Round up to two significant digits."""
    unit = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return math.ceil(count / unit) * unit
