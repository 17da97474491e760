"""Whether a metric's order of methods depends on what replaces removed pixels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stochx.engine.ranking import spearman
from stochx.engine.statistics import SIGNIFICANT, all_pairs
from stochx.tasks.comparison import values_of


@dataclass(frozen=True)
class Reordering:
    """The order of methods under two replacements: of `metric`, and of the `other` one that differs most from it.

    `correlation` is that of the ranks of the methods' means. Of all `pairs` of methods `turned` change places, and
    `significant` of them differ with p < 0.05 both times. `compared` counts the other replacements.
    """

    metric: str
    other: str
    compared: int
    correlation: float
    pairs: int
    turned: int
    significant: int


def reorderings(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], groups: Sequence[Sequence[str]]
) -> list[Reordering]:
    """Compare the metrics of each group, which differ in their replacement alone, with the first of the group.

    From stored records; a group whose metrics are undefined for all images is left out.
    """
    rows = []
    for first, *others in groups:
        values = {metric: values_of(records, methods, metric) for metric in (first, *others)}
        if len(methods) < 2 or not others or not all(own for table in values.values() for own in table.values()):
            continue
        compared = [_compare(first, other, values[first], values[other], len(others)) for other in others]
        rows.append(max(compared, key=lambda row: (row.significant, row.turned, -row.correlation)))
    return rows


def _compare(
    metric: str,
    other: str,
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    compared: int,
) -> Reordering:
    means = [{method: sum(own) / len(own) for method, own in values.items()} for values in (before, after)]
    ps = [all_pairs(values) for values in (before, after)]
    pairs = list(itertools.combinations(before, 2))
    turned = [
        pair for pair in pairs if (means[0][pair[0]] - means[0][pair[1]]) * (means[1][pair[0]] - means[1][pair[1]]) < 0
    ]
    sure = [pair for pair in turned if all(p[frozenset(pair)] < SIGNIFICANT for p in ps)]
    ranked = [torch.tensor([list(mean.values())], dtype=torch.float64) for mean in means]
    correlation = spearman(*ranked).item()
    return Reordering(metric, other, compared, correlation, len(pairs), len(turned), len(sure))
