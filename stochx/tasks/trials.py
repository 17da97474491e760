"""Trials of metrics: scores of halved draws, of spoilt maps, and of maps of a disturbed network."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from stochx.attributions import Attribution
from stochx.engine.gradients import logits
from stochx.engine.seeds import Key, generator, seeded
from stochx.metrics import Evidence, Metric
from stochx.tasks.values import as_values, unfit_maps

IMAGES = 32  # images that are tried, the first ones
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of a map's pixels that are permuted
DISTURBANCES = 3  # disturbed networks of each size
MINOR, STRONG = 0.001, 2.0  # standard deviation of the factors of the weights
FEWEST = 8  # draws of a metric that can be halved

Scores = Sequence[float | None]
Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trials:
    """The scores of one metric for one method's map of one image; None where it is undefined.

    `halves` under two sets of the metric's draws: each of half their number if it is `halved`. `degraded` of maps with
    a growing share of permuted pixels. `minor` of maps of networks with slightly changed weights, None where this
    changes the prediction, and `strong` of strongly changed ones, None where it does not.
    """

    halves: Scores
    halved: bool
    degraded: Scores = ()
    minor: Scores = ()
    strong: Scores = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Disturbed:
    """A network with changed weights, and the images (N,) whose prediction stays, or changes, as it should."""

    model: nn.Module
    strong: bool
    fits: Sequence[bool]


def try_metrics(
    methods: Mapping[str, Attribution],
    metrics: Mapping[str, Metric],
    evidence: Evidence,
    maps: Mapping[str, Tensor],
    predicted: Tensor,
) -> dict[str, list[dict[str, Trials]]]:
    """Return the trials of all metrics for each method's `maps` (N, C, H, W), by image.

    `evidence` holds all but these, and `predicted` (N,) are the classes that the network predicts.
    """
    assert evidence.model is not None and evidence.x is not None and evidence.target is not None
    trials: dict[str, list[dict[str, Trials]]] = {name: [{} for _ in evidence.keys] for name in methods}
    for name, method in methods.items():
        explain = partial(_explain, method, evidence.keys)
        own = replace(evidence, map=maps[name], explain=explain)
        for text, metric in metrics.items():
            start = time.perf_counter()
            halves, halved = _halves(metric, own)
            degraded = [] if metric.higher_is_better is None else [_score(metric, e) for e in _degraded(own)]
            seconds = (time.perf_counter() - start) / len(evidence.keys)
            for n, found in enumerate(trials[name]):
                found[text] = Trials(_of(halves, n), halved, _of(degraded, n), seconds=seconds)
    ranking = {text: metric for text, metric in metrics.items() if metric.higher_is_better is not None}
    for disturbed in _disturbances(evidence, predicted) if ranking else ():
        for name, method in methods.items():
            _add(trials[name], disturbed, method, ranking, evidence)
    return trials


def _add(
    trials: Sequence[dict[str, Trials]],
    disturbed: Disturbed,
    method: Attribution,
    metrics: Mapping[str, Metric],
    evidence: Evidence,
) -> None:
    """Append the scores of a method's maps of a disturbed network to its trials of the images."""
    assert evidence.x is not None and evidence.target is not None
    start = time.perf_counter()
    explain = partial(_explain, method, evidence.keys)
    own = replace(evidence, model=disturbed.model, explain=explain)
    own = replace(own, map=explain(disturbed.model, evidence.x, evidence.target))
    for text, metric in metrics.items():
        scores = _score(metric, own)
        seconds = (time.perf_counter() - start) / len(trials)
        for n, found in enumerate(trials):
            before, score = found[text], scores[n] if disturbed.fits[n] else None
            after = replace(before, seconds=before.seconds + seconds)
            if disturbed.strong:
                found[text] = replace(after, strong=[*before.strong, score])
            else:
                found[text] = replace(after, minor=[*before.minor, score])
        start = time.perf_counter()


def _explain(method: Attribution, keys: Sequence[Key], model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return method(model, x, target, keys).map


def _score(metric: Metric, evidence: Evidence) -> Scores:
    """Return the value of each image; None where it is undefined."""
    unfit = unfit_maps(evidence.map, evidence.x)
    with seeded(0, "trial", "/".join(map(str, evidence.keys))):
        result = metric(replace(evidence, map=evidence.map.nan_to_num(0.0, 0.0, 0.0)))
    return [value.value for value in as_values(result, unfit, 0.0)]


def _of(series: Sequence[Scores], image: int) -> Scores:
    return [scores[image] for scores in series]


def _halves(metric: Metric, evidence: Evidence) -> tuple[list[Scores], bool]:
    """Return the scores under two sets of draws, and true if each has half as many as the metric itself."""
    own = {field.name: getattr(metric, field.name) for field in fields(metric)}  # type: ignore[arg-type]
    drawn = next((name for name in ("draws", "samples") if own.get(name, 0) >= FEWEST), None)
    scores = []
    for half in range(2):
        changed = {} if drawn is None else {drawn: own[drawn] // 2}
        changed |= {"seed": own["seed"] + half} if "seed" in own else {}
        keys = [f"{key}/half {half}" for key in evidence.keys]
        scores.append(_score(replace(metric, **changed), replace(evidence, keys=keys)))  # type: ignore[type-var]
    return scores, drawn is not None


def _degraded(evidence: Evidence) -> Iterator[Evidence]:
    """Yield evidence with ever more pixels of the map permuted, the same for maps that are made again."""
    pixels = evidence.map.shape[2:].numel()
    for share in SHARES:
        source = torch.stack([_permutation(key, pixels, round(share * pixels)) for key in evidence.keys])
        place = source.to(evidence.map.device)[:, None]

        def spoil(relevance: Tensor, place: Tensor = place) -> Tensor:
            flat = relevance.flatten(2)
            return flat.gather(2, place.expand(-1, flat.shape[1], -1)).view_as(relevance)

        def again(model: nn.Module, x: Tensor, target: Tensor, spoil: Callable[[Tensor], Tensor] = spoil) -> Tensor:
            assert evidence.explain is not None
            return spoil(evidence.explain(model, x, target))

        yield replace(evidence, map=spoil(evidence.map), explain=again)


def _permutation(key: Key, pixels: int, count: int) -> Tensor:
    """Return a permutation that moves `count` random pixels among themselves."""
    source, place = generator(key, "degradation"), torch.arange(pixels)
    chosen = torch.randperm(pixels, generator=source)[:count]
    place[chosen] = chosen[torch.randperm(count, generator=source)]
    return place


def _disturbances(evidence: Evidence, predicted: Tensor) -> Iterator[Disturbed]:
    """Yield copies of the network with weights times normal factors: small ones, then strong ones."""
    assert evidence.model is not None and evidence.x is not None
    for strong, draw in itertools.product((False, True), range(DISTURBANCES)):
        model, std = copy.deepcopy(evidence.model), STRONG if strong else MINOR
        with torch.no_grad(), seeded(0, "disturbance", str(std), draw):
            for weight in model.parameters():
                weight.mul_(1 + std * torch.randn_like(weight))
            changed = logits(model, evidence.x).argmax(1) != predicted
        yield Disturbed(model, strong, (changed == strong).tolist())
