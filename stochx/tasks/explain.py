"""Explanations of images: every method's map of every image, with estimates of its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from stochx.attributions import Attribution, is_signed
from stochx.engine.io.data import Item
from stochx.engine.io.forms import Count
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import StochxError
from stochx.tasks.adaptive import bind
from stochx.tasks.batches import (
    Failed,
    ImageBatch,
    Source,
    batches,
    explanations,
    not_finite,
    number,
    rows_of,
    sweep_images,
)


@dataclass(frozen=True)
class ExplanationRow:
    """The result of one method on one image, whose class is `true`, if it is known; the network says `predicted`.

    `error` is the relative Monte-Carlo error of the map, `gap` its completeness error (in logits), `used` its number of
    samples. Adaptive noising chose `sigma` (in normalised units) in `evaluations` of its objective, each with the
    standard deviation `noise`; sigmas from `sigma_low` to `sigma_high` are within a standard error. The value on fresh
    draws is `objective`. Each is None if the method has none. `seconds` is the image's share of its batch.
    """

    index: Count
    image: str
    method: str
    target: Count
    class_name: str
    probability: float
    logit: float
    gap: float | None
    error: float | None
    used: int | None
    sigma: float | None
    sigma_low: float | None
    sigma_high: float | None
    objective: float | None
    noise: float | None
    evaluations: int | None
    seconds: float
    predicted: str
    true: str | None


@dataclass(frozen=True)
class Explained:
    """The maps (C, H, W) of an image by method, with the network's input and probabilities.

    `unsigned` names methods whose maps count by their absolute value; `true` is the image's class, if it is known.
    """

    index: int
    name: str
    image: Tensor
    probabilities: Tensor
    maps: Mapping[str, Tensor]
    rows: Sequence[ExplanationRow]
    unsigned: frozenset[str] = frozenset()
    true: str | None = None


def explain(
    model: Classifier,
    methods: Mapping[str, Attribution],
    sources: Sequence[Source],
    *,
    target: int | None = None,
    seed: int = 0,
    draws: int = 16,
    world: World | None = None,
    done: Collection[int] = (),
    keep: Callable[[Explained], None] = lambda explained: None,
    report: Callable[[list[ExplanationRow | Failed], int], None] = lambda rows, items: None,
) -> list[ExplanationRow | Failed]:
    """Return the rows of all images, in order; `keep` receives each image's maps once they are computed.

    The target is the class index `target`, or each image's top prediction. A map of a stochastic network is the
    mean over `draws` of its noise. Unreadable images, and logits, maps or gaps that are not finite, become `Failed`.
    """
    unsigned = frozenset(name for name, method in methods.items() if not is_signed(method))
    methods = {name: bind(method, model) for name, method in methods.items()}

    def work(places: range, loaded: list[Item | StochxError]) -> list[ExplanationRow | Failed]:
        rows: list[ExplanationRow | Failed] = []
        for batch in batches(model, sources, places, loaded, target, seed, draws):
            for result in [batch] if isinstance(batch, Failed) else _explain_batch(model, methods, batch):
                if isinstance(result, Failed):
                    rows.append(result)
                else:
                    keep(replace(result, unsigned=unsigned))
                    rows += result.rows
        return rows

    return sweep_images(sources, rows_of(model), work, world, done, report, methods)


def _explain_batch(
    model: Classifier, methods: Mapping[str, Attribution], batch: ImageBatch
) -> Iterator[Explained | Failed]:
    results = explanations(model, methods, batch)
    for n, (i, name) in enumerate(zip(batch.indices, batch.names, strict=True)):
        bad = [
            f"the {what} of `{method}` is"
            for method, (e, _) in results.items()
            for what, values in (("map", e.map), ("completeness gap", e.gap))
            if values is not None and not values[n].isfinite().all()
        ]
        if bad:
            yield not_finite(i, name, bad[0])
            continue
        chosen = int(batch.target[n])
        rows = [
            ExplanationRow(
                index=i,
                image=name,
                method=method,
                target=chosen,
                class_name=model.classes[chosen],
                probability=float(batch.probabilities[n, chosen]),
                logit=float(batch.logits[n, chosen]),
                gap=number(e.gap, n),
                error=number(e.error, n),
                used=None if e.used is None else int(e.used[n]),
                sigma=None if e.chosen is None else number(e.chosen.sigma, n),
                sigma_low=None if e.chosen is None else number(e.chosen.low, n),
                sigma_high=None if e.chosen is None else number(e.chosen.high, n),
                objective=None if e.chosen is None else number(e.chosen.objective, n),
                noise=None if e.chosen is None else number(e.chosen.noise, n),
                evaluations=None if e.chosen is None else int(e.chosen.evaluations[n]),
                seconds=seconds,
                predicted=model.classes[int(batch.probabilities[n].argmax())],
                true=batch.true[n],
            )
            for method, (e, seconds) in results.items()
        ]
        maps = {method: e.map[n].float().cpu() for method, (e, _) in results.items()}
        yield Explained(i, name, batch.items[n].image, batch.probabilities[n].cpu(), maps, rows, true=batch.true[n])
