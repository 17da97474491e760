"""Explain images: every method's map of every image, with what is known of its quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from stochx.attributions import Attribution, Explanation
from stochx.engine.classifier import Classifier
from stochx.engine.device import current
from stochx.engine.gradients import logits
from stochx.engine.montecarlo import split_half_error
from stochx.engine.seeds import seeded
from stochx.engine.sweep import sweep
from stochx.engine.twin import twin
from stochx.engine.world import World
from stochx.errors import FailureError, InputError, StochxError


@dataclass(frozen=True)
class Source:
    """One image to explain: its name in results, its key for random draws, and how to read it."""

    name: str
    read: Callable[[], tuple[str, Tensor]]  # -> (key, (3, H, W) in [0, 1], as the network will see it)


@dataclass(frozen=True)
class Row:
    """The result of one method on one image.

    `error` is the relative Monte-Carlo error of the map, `gap` what a complete map's sum is off (logits), `used`
    how many samples it took; each is None where the method has none. `seconds` is the image's share of its batch.
    """

    index: int
    image: str
    method: str
    target: int
    class_name: str
    probability: float
    logit: float
    gap: float | None
    error: float | None
    used: int | None
    seconds: float


@dataclass(frozen=True)
class Failed:
    """An image that could not be explained."""

    index: int
    image: str
    error: StochxError


@dataclass(frozen=True)
class Explained:
    """All maps of one image, (C, H, W) each by method, and what the network saw and said."""

    index: int
    name: str
    image: Tensor
    probabilities: Tensor
    maps: Mapping[str, Tensor]
    rows: Sequence[Row]


Loaded = list[tuple[str, Tensor] | StochxError]


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
    report: Callable[[list[Row | Failed], int], None] = lambda rows, items: None,
) -> list[Row | Failed]:
    """The rows of all images, in order; `keep` receives each image's maps when they are there.

    The target is the class index `target`, or each image's top prediction. A map of a stochastic network is the
    mean over `draws` of its noise. A bad image gives a `Failed` in its place; so do logits or maps that are not finite.
    """

    def load(batch: range) -> Loaded:
        return [_read(sources[i]) for i in batch]

    def work(batch: range, loaded: Loaded) -> list[Row | Failed]:
        found: list[Row | Failed] = [
            Failed(i, sources[i].name, item)
            for i, item in zip(batch, loaded, strict=True)
            if isinstance(item, StochxError)
        ]
        good = [(i, *item) for i, item in zip(batch, loaded, strict=True) if not isinstance(item, StochxError)]
        for _, same_size in groupby(good, key=lambda item: item[2].shape):
            for result in _explain_batch(model, methods, sources, list(same_size), target, seed, draws):
                if isinstance(result, Failed):
                    found.append(result)
                else:
                    keep(result)
                    found += result.rows
        return found

    side = model.input_size
    rows = twin(model).rows(torch.zeros(1, 3, side, side, device=model.mean.device, dtype=model.mean.dtype))
    found = sweep(len(sources), rows, load, work, world or World(), done, report)
    order = {name: place for place, name in enumerate(methods)}
    return sorted(found, key=lambda row: (row.index, order.get(getattr(row, "method", ""), 0)))


def _read(source: Source) -> tuple[str, Tensor] | StochxError:
    try:
        return source.read()
    except InputError as error:
        return error


def _explain_batch(
    model: Classifier,
    methods: Mapping[str, Attribution],
    sources: Sequence[Source],
    items: list[tuple[int, str, Tensor]],
    target: int | None,
    seed: int,
    draws: int,
) -> Iterator[Explained | Failed]:
    images = torch.stack([image for _, _, image in items]).to(model.mean)
    noisy = model.noise != "none"
    batch_key = "/".join(key for _, key, _ in items)
    with seeded(seed, "logits", batch_key):
        out = torch.stack([logits(model, images).float() for _ in range(draws if noisy else 1)])
    probabilities, out = out.softmax(2).mean(0), out.mean(0)
    finite = out.isfinite().all(1)
    for i, _, _ in (item for item, fine in zip(items, finite.tolist(), strict=True) if not fine):
        yield _not_finite(i, sources[i].name, "the model's logits")
    if not finite.any():
        return
    items = [item for item, fine in zip(items, finite.tolist(), strict=True) if fine]
    images, probabilities, out = images[finite], probabilities[finite], out[finite]
    chosen = probabilities.argmax(1) if target is None else torch.full_like(probabilities[:, 0], target).long()
    keys = [f"{seed}/{key}" for _, key, _ in items]

    found: dict[str, tuple[Explanation, float]] = {}
    for name, method in methods.items():
        start = time.perf_counter()
        if noisy:
            explanation = _mean_over_draws(model, method, images, chosen, keys, seed, draws, batch_key)
        else:
            explanation = method(model, images, chosen, keys)
        if images.is_cuda:
            torch.cuda.synchronize()
        found[name] = explanation, (time.perf_counter() - start) / len(items)

    for n, (i, _, image) in enumerate(items):
        bad = [name for name, (e, _) in found.items() if not e.map[n].isfinite().all()]
        if bad:
            yield _not_finite(i, sources[i].name, f"the map of `{bad[0]}`")
            continue
        rows = [
            Row(
                index=i,
                image=sources[i].name,
                method=name,
                target=int(chosen[n]),
                class_name=model.classes[int(chosen[n])],
                probability=float(probabilities[n, chosen[n]]),
                logit=float(out[n, chosen[n]]),
                gap=_number(e.gap, n),
                error=_number(e.error, n),
                used=None if e.used is None else int(e.used[n]),
                seconds=seconds,
            )
            for name, (e, seconds) in found.items()
        ]
        maps = {name: e.map[n].float().cpu() for name, (e, _) in found.items()}
        yield Explained(i, sources[i].name, image, probabilities[n].cpu(), maps, rows)


def _mean_over_draws(
    model: Classifier,
    method: Attribution,
    images: Tensor,
    target: Tensor,
    keys: list[str],
    seed: int,
    draws: int,
    batch_key: str,
) -> Explanation:
    """The mean map over draws of the network's noise, and the error that all randomness together leaves."""
    sums, gaps, used = None, [], []
    for d in range(draws):
        with seeded(seed, "draw", d, batch_key):
            one = method(model, images, target, [f"{key}/{d}" for key in keys])
        sums = one.map.new_zeros(2, 1, *one.map.shape) if sums is None else sums
        sums[d % 2, 0] += one.map
        gaps += [] if one.gap is None else [one.gap]
        used += [] if one.used is None else [one.used]
    assert sums is not None
    return Explanation(
        map=sums.sum(0)[0] / draws,
        error=split_half_error(sums, draws),
        gap=torch.stack(gaps).mean(0) if gaps else None,
        used=torch.stack(used).sum(0) if used else None,
    )


def _not_finite(index: int, name: str, what: str) -> Failed:
    reason = FailureError(
        f"`{name}`: {what} are not finite" if what.endswith("s") else f"`{name}`: {what} is not finite",
        f"check the weights and the normalisation; precision is {current().precision}",
    )
    return Failed(index, name, reason)


def _number(values: Tensor | None, n: int) -> float | None:
    return None if values is None or not values[n].isfinite() else float(values[n])
