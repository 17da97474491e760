"""Scores of maps: every metric of every method's map of every image."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from stochx.attributions import Attribution, Explanation
from stochx.engine.io.data import Item
from stochx.engine.io.forms import Count
from stochx.engine.network.classifier import Classifier
from stochx.engine.ranking import disagreement
from stochx.engine.seeds import seeded
from stochx.engine.world import World
from stochx.errors import InputError, StochxError
from stochx.metrics import Evidence, Metric
from stochx.tasks.adaptive import bind
from stochx.tasks.batches import Failed, ImageBatch, Source, batches, explanations, number, rows_of, sweep_images
from stochx.tasks.doubts import Accuracy
from stochx.tasks.trials import IMAGES, Trials, try_metrics
from stochx.tasks.values import Value, as_values, unfit_maps


@dataclass(frozen=True)
class ScoreRecord:
    """All metrics of one method's map of one image, whose class is `true`, if it is known.

    `disagreement` is the mean of 1 - Spearman's rank correlation of |map| over pairs of methods. Fields about the
    network are None for maps that are scored without one. `seconds` is the time of the map. `trust` holds the trials of
    the metrics, for the first images, where they are asked for.
    """

    index: Count
    image: str
    method: str
    target: int | None = None
    class_name: str | None = None
    true: str | None = None
    probability: float | None = None
    sigma: float | None = None
    disagreement: float | None = None
    seconds: float | None = None
    scores: Mapping[str, Value] = field(default_factory=dict)
    trust: Mapping[str, Trials] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """The maps of an image, summed over channels (H, W), by method, their records, and their accuracy."""

    index: int
    name: str
    image: Tensor | None
    maps: Mapping[str, Tensor]
    records: Sequence[ScoreRecord]
    accuracies: Sequence[Accuracy] = ()


def score(
    model: Classifier,
    methods: Mapping[str, Attribution],
    metrics: Mapping[str, Metric],
    sources: Sequence[Source],
    *,
    stored: Callable[[ImageBatch], Mapping[str, tuple[Explanation, float]]] | None = None,
    target: int | None = None,
    seed: int = 0,
    draws: int = 16,
    trials: bool = False,
    world: World | None = None,
    done: Collection[int] = (),
    keep: Callable[[Scored], None] = lambda scored: None,
    report: Callable[[list[ScoreRecord | Failed], int], None] = lambda records, items: None,
) -> list[ScoreRecord | Failed]:
    """Return the records of all images, in order; `keep` receives each image's maps once they are scored.

    With `stored`, maps come from there and `methods` is empty. Methods share a metric's random draws. Constant or
    non-finite maps, and constant images, have a reason instead of a value. With `trials` the metrics are tried too, on
    the first images.
    """
    methods = {name: bind(method, model) for name, method in methods.items()}
    make = stored or partial(explanations, model, methods)

    def work(places: range, loaded: list[Item | StochxError]) -> list[ScoreRecord | Failed]:
        records: list[ScoreRecord | Failed] = []
        for batch in batches(model, sources, places, loaded, target, seed, draws):
            if isinstance(batch, Failed):
                records.append(batch)
                continue
            for scored in _score_batch(model, methods, make(batch), metrics, batch, trials):
                keep(scored)
                records += scored.records
        return records

    return sweep_images(sources, rows_of(model), work, world, done, report, methods)


def _score_batch(
    model: Classifier,
    methods: Mapping[str, Attribution],
    results: Mapping[str, tuple[Explanation, float]],
    metrics: Mapping[str, Metric],
    batch: ImageBatch,
    trials: bool,
) -> list[Scored]:
    masks = [item.mask for item in batch.items if item.mask is not None]
    dissected = any("parts" in metric.needs for metric in metrics.values())
    parts = [item.parts() for item in batch.items if dissected and item.parts is not None]
    evidence = Evidence(
        map=batch.images,
        keys=batch.keys,
        x=batch.images,
        target=batch.target,
        model=model,
        mask=torch.stack(masks).to(model.mean.device) if len(masks) == len(batch.items) else None,
        parts=parts if len(parts) == len(batch.items) else None,
    )
    values = {}
    for name, (e, _) in results.items():
        again = partial(_again, methods[name], batch.keys) if name in methods else None
        values[name] = _values(metrics, replace(evidence, map=e.map, explain=again), batch)
    tried = (
        _trials(methods, metrics, evidence, {name: e.map for name, (e, _) in results.items()}, batch) if trials else {}
    )
    sums = {name: e.map.sum(1) for name, (e, _) in results.items()}
    per_image = disagreement(list(sums.values()))
    scored = []
    for n, (i, image) in enumerate(zip(batch.indices, batch.names, strict=True)):
        chosen = int(batch.target[n])
        records = [
            ScoreRecord(
                index=i,
                image=image,
                method=name,
                target=chosen,
                class_name=model.classes[chosen],
                true=batch.true[n],
                probability=float(batch.probabilities[n, chosen]),
                sigma=None if e.chosen is None else number(e.chosen.sigma, n),
                disagreement=number(per_image, n),
                seconds=seconds,
                scores=values[name][n],
                trust=tried.get((name, n), {}),
            )
            for name, (e, seconds) in results.items()
        ]
        maps = {name: total[n].float().cpu() for name, total in sums.items()}
        logit = float(batch.logits[n, chosen])
        accuracies = [Accuracy(m, number(e.error, n), number(e.gap, n), logit) for m, (e, _) in results.items()]
        scored.append(Scored(i, image, batch.items[n].image, maps, records, accuracies))
    return scored


def _trials(
    methods: Mapping[str, Attribution],
    metrics: Mapping[str, Metric],
    evidence: Evidence,
    maps: Mapping[str, Tensor],
    batch: ImageBatch,
) -> dict[tuple[str, int], dict[str, Trials]]:
    """Return the trials of all metrics by method and place in the batch, for those of its images that are tried."""
    places = [n for n, i in enumerate(batch.indices) if i < IMAGES]
    if not places:
        return {}
    assert evidence.x is not None and evidence.target is not None
    some = replace(
        evidence,
        keys=[evidence.keys[n] for n in places],
        x=evidence.x[places],
        target=evidence.target[places],
        mask=None if evidence.mask is None else evidence.mask[places],
        parts=None if evidence.parts is None else [evidence.parts[n] for n in places],
    )
    own = {name: relevance[places] for name, relevance in maps.items()}
    tried = try_metrics(methods, metrics, some, own, batch.logits[places].argmax(1))
    return {(name, n): found for name, rows in tried.items() for n, found in zip(places, rows, strict=True)}


def _again(method: Attribution, keys: Sequence[str], model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return method(model, x, target, keys).map


def _values(metrics: Mapping[str, Metric], evidence: Evidence, batch: ImageBatch) -> list[dict[str, Value]]:
    """Return each metric's value of one method's map, for each image of the batch."""
    values: list[dict[str, Value]] = [{} for _ in evidence.map]
    unfit = unfit_maps(evidence.map, evidence.x)
    whole = replace(evidence, map=evidence.map.nan_to_num(0.0, 0.0, 0.0))
    for name, metric in metrics.items():
        start = time.perf_counter()
        with seeded(0, "score", batch.key):
            result = metric(whole)
        seconds = (time.perf_counter() - start) / len(values)
        for n, value in enumerate(as_values(result, unfit, seconds)):
            values[n][name] = value
    return values


def check_needs(metrics: Mapping[str, Metric], available: Collection[str], hints: Mapping[str, str]) -> None:
    """Raise `InputError` for a metric with needs that are not `available`; `hints` say how to provide them."""
    names = {
        "model": "images and a network",
        "explain": "to recompute maps",
        "mask": "masks of the object",
        "parts": "the parts of the object",
    }
    for name, metric in metrics.items():
        for need in sorted(metric.needs - set(available)):
            raise InputError(f"`{name}` needs {names[need]}", hints[need])
