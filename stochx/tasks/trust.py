"""How far a metric can be trusted: what its trials say, and what resampling the images does to its verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from stochx.engine.ranking import spearman
from stochx.engine.seeds import generator
from stochx.engine.statistics import paired_p
from stochx.metrics import Metric
from stochx.tasks.comparison import values_of

BOOTSTRAPS = 1000
LEAST_DEGRADATION = 0.9  # below this a metric does not see that a map is spoilt
Table = Mapping[tuple[int, str], Mapping[str, Any]]  # trials by image and method


@dataclass(frozen=True)
class TrustRow:
    """How far a metric can be trusted; None where a number is not defined for it, or for these methods.

    `reliability` is the correlation of differences of methods under other draws of the metric; `swaps` the share of
    bootstraps of the images in which the first two methods change places; `degradation` the rank correlation of the
    mean score with the share of pixels left in place, over methods; `control_rank` the place of the best control among
    all `methods`. `consistency` is MetaQuantus's score, and `chance` what noise would have. `images` and `seconds` are
    those of the trials.
    """

    metric: str
    images: int
    methods: int
    reliability: float | None
    swaps: float | None
    degradation: float | None
    control_rank: int | None
    consistency: float | None
    chance: float
    seconds: float


def trust(
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Mapping[str, Metric],
    controls: Collection[str] = (),
) -> list[TrustRow]:
    """Return a row for each metric, from stored records (dictionaries) with trials."""
    rows, some = [], [record for record in records if record["trust"]]
    for name, metric in metrics.items():
        tried = {(r["index"], r["method"]): r["trust"][name] for r in some}
        before = {(r["index"], r["method"]): r["scores"][name]["value"] for r in some}
        sign = {True: 1, False: -1, None: 0}[metric.higher_is_better]
        values = values_of(records, methods, name)
        defined = bool(sign) and len(methods) > 1 and all(values.values())
        own = [method for method in methods if method not in controls]
        rows.append(
            TrustRow(
                metric=name,
                images=len({index for index, _ in tried}),
                methods=len(methods),
                reliability=reliability(tried, methods),
                swaps=swaps(values, sign) if defined else None,
                degradation=degradation(tried, before, own, sign) if sign else None,
                control_rank=_control_rank(values, controls, sign) if defined else None,
                consistency=consistency(tried, before, methods, sign) if defined else None,
                chance=chance(len(methods)),
                seconds=sum(trials["seconds"] for trials in tried.values()),
            )
        )
    return rows


def chance(methods: int) -> float:
    """Return MetaQuantus's score of noise: its parts are 1/2, 1/2, 1/2 and 1/M, the share of ranks that agree."""
    return (1.5 + 1 / methods) / 4


def reliability(tried: Table, methods: Sequence[str]) -> float | None:
    """Return the correlation of differences of methods on the same image under two sets of draws.

    For halves of the draws it is that of all of them, 2 r / (1 + r) (Spearman & Brown, 1910).
    """
    halves, halved = [], False
    for index in sorted({index for index, _ in tried}):
        both = [tried[index, method]["halves"] for method in methods]
        halved = tried[index, methods[0]]["halved"]
        if all(value is not None for scores in both for value in scores):
            scores = torch.tensor(both, dtype=torch.float64)
            halves.append(scores - scores.mean(0))  # its products sum to those of the differences of all pairs
    if not halves or len(methods) < 2:
        return None
    first, second = torch.cat(halves).T
    spread = math.sqrt(float(first @ first) * float(second @ second))
    if spread == 0:
        return None
    r = float(first @ second) / spread
    return 2 * r / (1 + r) if halved and r > -1 else r


def swaps(values: Mapping[str, Sequence[float]], sign: int) -> float:
    """Return the share of bootstraps of the images in which the second method has a better mean than the first."""
    means = {method: sign * fmean(own) for method, own in values.items()}
    first, second = sorted(means, key=lambda method: -means[method])[:2]
    lead = sign * torch.tensor([a - b for a, b in zip(values[first], values[second], strict=True)], dtype=torch.float64)
    drawn = torch.randint(len(lead), (BOOTSTRAPS, len(lead)), generator=generator("bootstrap", len(lead)))
    return (lead[drawn].mean(1) < 0).double().mean().item()


def degradation(tried: Table, before: Mapping[Any, float | None], methods: Sequence[str], sign: int) -> float | None:
    """Return the rank correlation of a method's mean score with the share of pixels in place, averaged over methods."""
    found = []
    for method in methods:
        curves = [
            [before[key], *trials["degraded"]]
            for key, trials in tried.items()
            if key[1] == method and None not in (before[key], *trials["degraded"])
        ]
        if curves:
            mean = sign * torch.tensor(curves, dtype=torch.float64).mean(0, keepdim=True)
            found.append(spearman(mean, -torch.arange(mean.shape[1], dtype=torch.float64)[None]).item())
    return fmean(found) if found else None


def _control_rank(values: Mapping[str, Sequence[float]], controls: Collection[str], sign: int) -> int | None:
    """Return the place of the best control, 1 for the best mean of all; None without one."""
    ranked = sorted(values, key=lambda method: -sign * fmean(values[method]))
    return next((place for place, method in enumerate(ranked, 1) if method in controls), None)


def consistency(tried: Table, before: Mapping[Any, float | None], methods: Sequence[str], sign: int) -> float | None:
    """Return MetaQuantus's score (Hedström et al., 2023), the mean of four parts between 0 and 1.

    Under minor disturbances: mean p of Wilcoxon's test between the scores before and after, and share of methods that
    keep their rank on an image; under strong ones: mean 1 - p, and share of images whose score gets worse.
    """
    parts = []
    for size in ("minor", "strong"):
        ps, agree = [], []
        for draw in range(max(len(trials[size]) for trials in tried.values()) if tried else 0):
            after = {key: trials[size][draw] for key, trials in tried.items()}
            pairs = {key: (before[key], after[key]) for key in tried if before[key] is not None}
            pairs = {key: pair for key, pair in pairs.items() if pair[1] is not None}
            for method in methods:
                changes = [sign * (pair[1] - pair[0]) for key, pair in pairs.items() if key[1] == method]
                if len(changes) > 1:
                    ps.append(wilcoxon(changes) if size == "minor" else 1 - wilcoxon(changes))
                agree += [float(change < 0) for change in changes] if size == "strong" else []
            agree += _kept_ranks(pairs, methods) if size == "minor" else []
        if not ps or not agree:
            return None
        parts += [fmean(ps), fmean(agree)]
    return fmean(parts)


def _kept_ranks(pairs: Mapping[tuple[int, str], Any], methods: Sequence[str]) -> list[float]:
    """Return, for each image with all methods, the share of methods with the same rank before and after."""
    shares = []
    for index in sorted({index for index, _ in pairs}):
        if all((index, method) in pairs for method in methods):
            scores = torch.tensor([pairs[index, method] for method in methods], dtype=torch.float64)
            ranks = scores.argsort(dim=0, stable=True).argsort(dim=0, stable=True)
            shares.append((ranks[:, 0] == ranks[:, 1]).double().mean().item())
    return shares


def wilcoxon(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, by sign flips of ranks; zeros are left out."""
    kept = torch.tensor([d for d in differences if d != 0], dtype=torch.float64)
    if len(kept) < 2:
        return 1.0
    p = paired_p((_ranks(kept.abs()) * kept.sign()).tolist())
    return 1.0 if math.isnan(p) else p


def _ranks(values: Tensor) -> Tensor:
    """Return ranks from 1; equal values get their mean rank."""
    rising = values.sort().values
    first, last = torch.searchsorted(rising, values), torch.searchsorted(rising, values, right=True)
    return (first + last + 1).to(values.dtype) / 2
