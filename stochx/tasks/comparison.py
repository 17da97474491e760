"""The comparison of methods by the scores of their maps: means over images, and which method is best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from stochx.engine.power import Power, power_of
from stochx.engine.statistics import SIGNIFICANT, UNBOUNDED, Bounds, all_pairs, interval
from stochx.metrics import Metric


@dataclass(frozen=True)
class ScoreRow:
    """A method under a metric: the mean over the n images for which the values of all methods are defined.

    `low` and `high` are the ends of its 95 % interval. `why` counts the reasons of `excluded` images. `better` is
    lower, higher or none. `p` is the paired sign-flip p-value against the method with the best mean, corrected by Holm
    for all pairs of methods, since the values choose the best; `best` marks that method if all are below 0.05. A
    `control`, which explains nothing, is never best: where one leads, no method is. `setting` describes sizes derived
    from the images' size.
    """

    method: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    excluded: int
    why: Mapping[str, int]
    better: str
    best: bool
    p: float | None
    reduction: str
    setting: str
    control: bool


def summarise(
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Mapping[str, Metric],
    controls: Collection[str] = (),
) -> list[ScoreRow]:
    """Return the table, a row per metric and method, from stored records (dictionaries).

    An image counts for a metric only if the values of all methods are defined, so that means are over the same images.
    """
    rows = []
    for name, metric in metrics.items():
        table = _by_image(records, name)
        whole = [row for row in table.values() if all(_value(row, m) is not None for m in methods)]
        why = Counter(reason for row in table.values() if row not in whole for reason in _reasons(row, methods))
        values = {m: [float(row[m]["value"]) for row in whole] for m in methods}
        settings = sorted({row[m]["setting"] for row in whole for m in methods if row[m]["setting"]})
        best, p = _compare(values, metric.higher_is_better)
        for method in methods:
            mean = interval(values[method], bounds_of(metric))
            rows.append(
                ScoreRow(
                    method=method,
                    metric=name,
                    mean=_finite(mean.mean),
                    low=_finite(mean.low),
                    high=_finite(mean.high),
                    n=mean.n,
                    excluded=len(table) - len(whole),
                    why=dict(why),
                    better={True: "higher", False: "lower", None: "none"}[metric.higher_is_better],
                    best=method == best and method not in controls,
                    p=p.get(method),
                    reduction=metric.reduction,
                    setting="; ".join(settings),
                    control=method in controls,
                )
            )
    return rows


def values_of(records: Sequence[Mapping[str, Any]], methods: Sequence[str], metric: str) -> dict[str, list[float]]:
    """Return each method's values of a metric, for the images where all methods have one."""
    table = _by_image(records, metric).values()
    whole = [row for row in table if all(_value(row, method) is not None for method in methods)]
    return {method: [float(row[method]["value"]) for row in whole] for method in methods}


def _by_image(records: Sequence[Mapping[str, Any]], metric: str) -> dict[int, dict[str, Mapping[str, Any]]]:
    """Return a metric's stored values by image and method."""
    table: dict[int, dict[str, Mapping[str, Any]]] = {}
    for record in records:
        table.setdefault(record["index"], {})[record["method"]] = record["scores"][metric]
    return table


@dataclass(frozen=True)
class MethodPower:
    """The power of the comparison of a metric's `first` method, which has the best mean, with a `second` one.

    That is the one whose paired differences to the first vary most: those to all others are found more easily.
    """

    metric: str
    first: str
    second: str
    power: Power


def powers(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Mapping[str, Metric], delta: float | None
) -> list[MethodPower]:
    """Return the power of each metric's comparison of methods, from stored records, where it compares any."""
    rows = []
    for name, metric in metrics.items():
        values = values_of(records, methods, name)
        if metric.higher_is_better is None or len(methods) < 2 or len(values[methods[0]]) < 2:
            continue
        first = _first(values, metric.higher_is_better)
        gaps = {m: [a - b for a, b in zip(values[first], values[m], strict=True)] for m in methods if m != first}
        second = max(gaps, key=lambda m: stdev(gaps[m]))
        found = power_of(gaps[second], math.comb(len(methods), 2), delta)
        assert found is not None, "there are two values at least"
        rows.append(MethodPower(name, first, second, found))
    return rows


def bounds_of(metric: Metric) -> Bounds:
    """Return the least and the greatest value that a metric, and its curve, can have, as far as it declares them."""
    bounds: Bounds = getattr(metric, "bounds", UNBOUNDED)
    return bounds


def _value(row: Mapping[str, Mapping[str, Any]], method: str) -> float | None:
    return row[method]["value"] if method in row else None


def _reasons(row: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> set[str]:
    """Return why an image has no value, with the methods that lack it where others have one."""
    whys = {m: row[m]["why"] if m in row else "there is no map" for m in methods if _value(row, m) is None}
    shared = len(whys) == len(methods) and len({*whys.values()}) == 1
    return {*whys.values()} if shared else {f"{method}: {why}" for method, why in whys.items()}


def _compare(values: Mapping[str, list[float]], higher: bool | None) -> tuple[str | None, dict[str, float | None]]:
    """Return the significantly best method, if any, and the others' p-values against the best mean, for all pairs."""
    if higher is None or len(values) < 2 or not all(values.values()):
        return None, {}
    first = _first(values, higher)
    adjusted = all_pairs(values)
    against = {m: adjusted[frozenset((first, m))] for m in values if m != first}
    wins = all(p < SIGNIFICANT for p in against.values())
    return first if wins else None, {m: _finite(p) for m, p in against.items()}


def _first(values: Mapping[str, list[float]], higher: bool) -> str:
    """Return the method with the best mean."""
    return (max if higher else min)(values, key=lambda method: sum(values[method]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
