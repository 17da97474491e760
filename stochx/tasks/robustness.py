"""Robust accuracies with intervals, the worst case of each image, and the comparison of two networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stochx.engine.statistics import Estimate, mean_difference, paired_p, share
from stochx.errors import InputError, RunError

WORST = "worst"


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
    clean = share([record["clean"] for record in records], counts=not noisy)
    if not clean.mean > 0:
        raise RunError(
            "the network classifies no image correctly, so there is nothing to attack",
            "check the labels and the normalisation",
        )
    rows, standing = [], [record["clean"] > 0 for record in records]
    for name in attacks:
        outcomes = [record["attacks"][name] for record in records]
        surviving = [stood and o["correct"] > 0 for stood, o in zip(standing, outcomes, strict=True)]
        row = _row(name, outcomes, records, clean, noisy, targeted)
        rows.append(replace(row, newly=sum(standing) - sum(surviving)))
        standing = surviving
    if len(attacks) > 1:
        worst = [r["attacks"][r["worst_attack"]] for r in records]
        rows.append(_row(WORST, worst, records, clean, noisy, targeted))
    return rows


def _row(
    name: str,
    outcomes: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    clean: Estimate,
    noisy: bool,
    targeted: bool,
) -> AttackRow:
    robust = share([outcome["correct"] for outcome in outcomes], counts=not noisy)
    attacked = [outcome for outcome in outcomes if outcome["forwards"]]
    hits = sum(outcome["hit"] for outcome in attacked) / max(1, len(attacked))
    return AttackRow(
        attack=name,
        clean=clean.mean,
        clean_low=clean.low,
        clean_high=clean.high,
        robust=robust.mean,
        low=robust.low,
        high=robust.high,
        success=hits if targeted else max(0.0, 1 - robust.mean / clean.mean),
        vote=sum(outcome["vote"] for outcome in outcomes) / len(outcomes) if noisy else None,
        clean_off=_share([record["off"] for record in records]),
        robust_off=_share([outcome["off"] for outcome in outcomes]),
        correct=sum(outcome["correct"] for outcome in outcomes),
        newly=None,
        n=len(records),
        forwards=None if name == WORST else _mean([o["forwards"] for o in attacked]),
        backwards=None if name == WORST else _mean([o["backwards"] for o in attacked]),
        seconds=None if name == WORST else sum(record["seconds"][name] for record in records),
    )


def _mean(counts: Sequence[int | None]) -> float | None:
    """Return the mean; None of no counts, or if any is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) / len(known) if known and len(known) == len(counts) else None


def _share(values: Sequence[bool | None]) -> float | None:
    """Return the share of true values; None if any is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


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
    other = {record["index"]: record for record in second}
    gaps = [r["worst"] - other[r["index"]]["worst"] for r in first if r["index"] in other]
    if len(gaps) < 2:
        raise InputError("the networks have fewer than two images in common", "increase `--limit`")
    gap, p = mean_difference(gaps), paired_p(gaps)
    return Versus(gap.mean, gap.low, gap.high, p if math.isfinite(p) else 1.0, len(gaps))
