"""Robust accuracies with intervals, the worst case of each image, and the comparison of two networks."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from stochx.engine.power import Power, draws_for, power_of, power_of_two
from stochx.engine.statistics import Estimate, mean_difference, paired_p, share
from stochx.errors import InputError, RunError

WORST = "worst"
FIELDS = ("correct", "hit", "vote", "off", "forwards", "backwards")  # of an outcome
CLEAN, OFF = ("", "clean"), ("", "off")  # columns of the images themselves

Column = npt.NDArray[np.float64]
Columns = Mapping[tuple[str, str], Column]
"""Numbers by attack and field, NaN for None."""


@dataclass(frozen=True)
class AttackRow:
    """The results of an attack over all images, or of `worst`, the strongest attack on each image.

    Accuracies have 95 % intervals over images: Wilson's, or for a stochastic network `mean_share`'s. `success` is the
    share of the clean accuracy that is lost, or of attacked images that are classified as the target. `vote` is the
    accuracy of the mean probabilities; `clean_off` and `robust_off` are accuracies on the same images with noise layers
    off; None without noise. `correct` of `n` images stay correct, a sum of shares; `newly` counts the images for which
    this attack is the first in the table to leave no draw right. `forwards` and `backwards` are means over attacked
    images.
    """

    attack: str
    clean: float
    clean_low: float
    clean_high: float
    robust: float
    low: float
    high: float
    success: float
    vote: float | None
    clean_off: float | None
    robust_off: float | None
    correct: float
    newly: int | None
    n: int
    forwards: float | None
    backwards: float | None
    seconds: float | None


def summarise(
    records: Sequence[Mapping[str, Any]], attacks: Sequence[str], noisy: bool, targeted: bool
) -> list[AttackRow]:
    """Return the table, from stored records (dictionaries); with several attacks the last row is the worst case."""
    columns = _columns(records, attacks)
    clean = share(columns[CLEAN].tolist(), counts=not noisy)
    if not clean.mean > 0:
        raise RunError(
            "the network classifies no image correctly, so there is nothing to attack",
            "check the labels and the normalisation",
        )
    rows, standing = [], columns[CLEAN] > 0
    for name in attacks:
        surviving = standing & (columns[name, "correct"] > 0)
        row = _row(name, columns, clean, noisy, targeted)
        rows.append(replace(row, newly=int(standing.sum() - surviving.sum())))
        standing = surviving
    return [*rows, _row(WORST, columns, clean, noisy, targeted)] if len(attacks) > 1 else rows


def _columns(records: Iterable[Mapping[str, Any]], attacks: Sequence[str]) -> Columns:
    """Return the numbers that the table needs; of a million records on the disk, each is read once."""
    fields, flat = itemgetter(*FIELDS), array("d")
    for record in records:
        outcomes, seconds = record["attacks"], record["seconds"]
        values = [record["clean"], record["off"]]
        for name in attacks:
            values += seconds[name], *fields(outcomes[name])
        values += fields(outcomes[record["worst_attack"]])
        flat.extend([math.nan if value is None else value for value in values])
    heads = [CLEAN, OFF, *product(attacks, ("seconds", *FIELDS)), *product([WORST], FIELDS)]
    return dict(zip(heads, np.array(flat).reshape(-1, len(heads)).T, strict=True))


def _row(name: str, columns: Columns, clean: Estimate, noisy: bool, targeted: bool) -> AttackRow:
    correct = columns[name, "correct"].tolist()
    robust = share(correct, counts=not noisy)
    attacked = columns[name, "forwards"] > 0
    hits = sum(columns[name, "hit"][attacked].tolist()) / max(1, int(attacked.sum()))
    return AttackRow(
        attack=name,
        clean=clean.mean,
        clean_low=clean.low,
        clean_high=clean.high,
        robust=robust.mean,
        low=robust.low,
        high=robust.high,
        success=hits if targeted else max(0.0, 1 - robust.mean / clean.mean),
        vote=_mean(columns[name, "vote"]) if noisy else None,
        clean_off=_mean(columns[OFF]),
        robust_off=_mean(columns[name, "off"]),
        correct=sum(correct),
        newly=None,
        n=len(correct),
        forwards=None if name == WORST else _mean(columns[name, "forwards"][attacked]),
        backwards=None if name == WORST else _mean(columns[name, "backwards"][attacked]),
        seconds=None if name == WORST else sum(columns[name, "seconds"].tolist()),
    )


def _mean(column: Column) -> float | None:
    """Return the mean; None of no values, or if any is unknown."""
    mean = sum(column.tolist()) / len(column) if len(column) else math.nan
    return mean if math.isfinite(mean) else None


@dataclass(frozen=True)
class Versus:
    """The difference of the worst-case accuracies of two networks on the same images, first minus second.

    `p` is the sign-flip p-value over images, which without noise is McNemar's exact test.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int


def compare(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Versus:
    """Compare the robustness of two networks over their common images."""
    gaps = _gaps(first, second)
    if len(gaps) < 2:
        raise InputError("the networks have fewer than two images in common", "increase `--limit`")
    gap, p = mean_difference(gaps), paired_p(gaps)
    return Versus(gap.mean, gap.low, gap.high, p if math.isfinite(p) else 1.0, len(gaps))


def power(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]] | None, delta: float | None
) -> Power | None:
    """Return the power of the comparison of worst cases: of two networks on their common images, or with another one.

    The latter is on as many other images, and as far from certain: a comparison on the same images finds more.
    """
    if second is None:
        return power_of_two([record["worst"] for record in first], delta)
    return power_of(_gaps(first, second), 1, delta)


def draws_needed(
    found: Power, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]] | None, draws: int
) -> int | None:
    """Return how many judging draws find `delta` on the same images; see `draws_for`."""
    networks = (first, first) if second is None else (first, second)
    return draws_for(found, sum(_variance_of_a_draw(records, draws) for records in networks), draws)


def _variance_of_a_draw(records: Sequence[Mapping[str, Any]], draws: int) -> float:
    """Return the mean variance of the verdict of one draw on an image: 0 for a network without noise."""
    shares = [record["worst"] for record in records]
    return sum(share * (1 - share) for share in shares) / len(shares) * draws / (draws - 1) if draws > 1 else 0.0


def _gaps(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the difference of the worst cases on each image that both networks have."""
    other = {record["index"]: record["worst"] for record in second}
    return [record["worst"] - other[record["index"]] for record in first if record["index"] in other]
