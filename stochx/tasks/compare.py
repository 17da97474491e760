"""The comparison of two runs: each measure of both, paired where their images are the same."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from stochx.engine.statistics import (
    SHARE,
    UNBOUNDED,
    Bounds,
    estimate,
    holm,
    is_significant,
    mean_difference,
    paired_ps,
)

Better = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Measured:
    """A measure of a run: its mean with the ends of the interval, if known, and the values that it is the mean of.

    `key` finds the same measure in another run; `label` names the row that it stands in, without what is the same in
    all rows of its run, such as the radius; `at` says that too. `values` are those of images
    or episodes, by a name that another run gives to the same one.
    """

    key: Hashable
    label: str
    measure: str
    better: Better
    mean: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    bounds: Bounds = UNBOUNDED
    values: Mapping[str, float] = field(default_factory=dict)
    at: str = ""


@dataclass(frozen=True)
class ComparedRow:
    """A measure in two runs. `difference` is new minus old, with the ends of its 95 % interval.

    Of `paired` images (episodes), where both runs have them: then `old` and `new` are means over these, and `p` is that
    of the sign-flip test, adjusted by Holm for all rows. Else the difference is that of two independent means, and the
    interval Newcombe's; None where a mean has none. `significant` says if p is below 0.05, or without p if the interval
    excludes zero; None without either. `regression` says if a gate is missed here.
    """

    label: str
    measure: str
    better: Better
    old: float | None
    new: float | None
    difference: float
    low: float | None
    high: float | None
    p: float | None
    significant: bool | None
    paired: int
    n_old: int | None
    n_new: int | None
    regression: bool = False


def compare_runs(old: Sequence[Measured], new: Sequence[Measured]) -> list[ComparedRow]:
    """Return a row for each measure that both runs have, in the order of the new one."""
    before = {measured.key: measured for measured in old}
    pairs = [(before[measured.key], measured) for measured in new if measured.key in before]
    differences = [[b.values[name] - a.values[name] for name in _common(a, b)] for a, b in pairs]
    p = holm(_p_values(differences))
    return [
        _paired_row(*pair, gaps, value) if len(gaps) > 1 else _independent_row(*pair)
        for pair, gaps, value in zip(pairs, differences, p, strict=True)
    ]


def _common(old: Measured, new: Measured) -> list[str]:
    """Return the names of the images that both have."""
    return [name for name in new.values if name in old.values]


def _p_values(differences: Sequence[Sequence[float]]) -> list[float]:
    """Return the p-value of each set of differences, NaN for fewer than two. Sets of one size share their signs."""
    values = [math.nan] * len(differences)
    for size in {len(gaps) for gaps in differences if len(gaps) > 1}:
        places = [place for place, gaps in enumerate(differences) if len(gaps) == size]
        for place, p in zip(places, paired_ps([differences[place] for place in places]), strict=True):
            values[place] = p
    return values


def missing(these: Sequence[Measured], those: Sequence[Measured]) -> list[str]:
    """Return the names of the measures that only the first run has, told apart from those of the second."""
    keys, names = {measured.key for measured in those}, {_name(measured) for measured in those}
    only = [measured for measured in these if measured.key not in keys]
    return [f"{_name(m)} at {m.at}" if m.at and _name(m) in names else _name(m) for m in only]


def _name(measured: Measured) -> str:
    return f"{measured.measure} of {measured.label}" if measured.label else measured.measure


def _paired_row(old: Measured, new: Measured, differences: Sequence[float], p: float) -> ComparedRow:
    gap = mean_difference(differences) if new.bounds == SHARE else estimate(differences)
    common = _common(old, new)
    before, after = (sum(measured.values[name] for name in common) / len(common) for measured in (old, new))
    estimated = (gap.mean, gap.low, gap.high, p, is_significant(p, gap.low, gap.high), len(common))
    return ComparedRow(new.label, new.measure, new.better, before, after, *estimated, old.n, new.n)


def _independent_row(old: Measured, new: Measured) -> ComparedRow:
    low, high = _newcombe(old, new)
    estimated = (new.mean - old.mean, low, high, None, is_significant(None, low, high), 0)
    return ComparedRow(new.label, new.measure, new.better, old.mean, new.mean, *estimated, old.n, new.n)


def _newcombe(old: Measured, new: Measured) -> tuple[float | None, float | None]:
    """Return the interval of a difference of two independent means, from theirs (Newcombe, 1998, method 10).

    d - sqrt((m' - l')^2 + (u - m)^2),  d + sqrt((u' - m')^2 + (m - l)^2)   for m' - m = d, l <= m <= u, l' <= m' <= u'
    """
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return None, None
    gap = new.mean - old.mean
    below = math.hypot(new.mean - new.low, old.high - old.mean)
    above = math.hypot(new.high - new.mean, old.mean - old.low)
    return gap - below, gap + above


def judged(rows: Sequence[ComparedRow], delta: float) -> list[ComparedRow]:
    """Return the rows, marked where a measure got worse by more than `delta`, and significantly.

    A measure with neither p nor interval, such as the loss of a training, is judged by its difference alone.
    """
    return [replace(row, regression=_loss(row) > delta and row.significant is not False) for row in rows]


def _loss(row: ComparedRow) -> float:
    """Return by how much a measure got worse."""
    return {"higher": -row.difference, "lower": row.difference, "none": -math.inf}[row.better]
