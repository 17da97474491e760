"""Batches of classified images, and the maps of methods for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from stochx.attributions import Attribution, Chosen, Explanation
from stochx.engine.device import current
from stochx.engine.gradients import logits
from stochx.engine.io.data import Item
from stochx.engine.montecarlo import split_half_error
from stochx.engine.network.classifier import Classifier, probabilities
from stochx.engine.network.fused import fused
from stochx.engine.seeds import seeded
from stochx.engine.sweep import sweep
from stochx.engine.world import World
from stochx.errors import InputError, RunError, StochxError, during, quoted


class Indexed(Protocol):
    """A record of an image, by its place among the sources."""

    @property
    def index(self) -> int: ...


R = TypeVar("R", bound=Indexed)


@dataclass(frozen=True)
class Source:
    """An image: its name in results, a function that reads it at the network's size, and the class to explain.

    The item's `key` seeds the random draws. Without a target of its own it gets the run's. `true` is the name of its
    class, if it is known.
    """

    name: str
    read: Callable[[], Item]
    target: int | None = None
    true: str | None = None


@dataclass(frozen=True)
class Failed:
    """An image that could not be processed."""

    index: int
    image: str
    error: StochxError


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, with the network's predictions.

    `images` (N, C, H, W) in [0, 1], `probabilities` and `logits` (N, K), `target` (N,); `keys` hold the seed.
    `true` are the names of the images' classes, where they are known.
    """

    indices: Sequence[int]
    names: Sequence[str]
    items: Sequence[Item]
    keys: Sequence[str]
    images: Tensor
    probabilities: Tensor
    logits: Tensor
    target: Tensor
    draws: int
    true: Sequence[str | None]

    @property
    def key(self) -> str:
        """Key of the noise inside a stochastic network."""
        return "/".join(self.keys)


def sweep_images(
    sources: Sequence[Source],
    rows: int,
    work: Callable[[range, list[Item | StochxError]], list[R]],
    world: World | None,
    done: Collection[int],
    report: Callable[[list[R], int], None],
    methods: Collection[str] = (),
) -> list[R]:
    """Run `work` on batches of images, read in the background; return its records by image, then as `methods` are.

    See `engine.sweep` for `done` and `report`. A `RunError` names the images of its batch.
    """

    def named(places: range, loaded: list[Item | StochxError]) -> list[R]:
        with during(quoted([sources[i].name for i in places])):
            return work(places, loaded)

    records = sweep(len(sources), rows, lambda places: read_all(sources, places), named, world or World(), done, report)
    order = {name: place for place, name in enumerate(methods)}
    return sorted(records, key=lambda record: (record.index, order.get(getattr(record, "method", ""), 0)))


def readable(
    sources: Sequence[Source], places: range, loaded: Sequence[Item | StochxError]
) -> tuple[list[Failed], list[tuple[int, Item]]]:
    """Part the images of a batch into those that could not be read, and the items of the others by place."""
    pairs = list(zip(places, loaded, strict=True))
    failed = [Failed(i, sources[i].name, item) for i, item in pairs if isinstance(item, StochxError)]
    return failed, [(i, item) for i, item in pairs if not isinstance(item, StochxError)]


def read_all(sources: Sequence[Source], batch: range) -> list[Item | StochxError]:
    """Read the items of a batch; an item that cannot be read becomes its error."""

    def read(source: Source) -> Item | StochxError:
        try:
            return source.read()
        except InputError as error:
            return error

    return [read(sources[i]) for i in batch]


def rows_of(model: Classifier) -> int:
    """Return the number of images in a canonical batch."""
    return fused(model).rows(model.blank())


def batches(
    model: Classifier,
    sources: Sequence[Source],
    places: range,
    loaded: Sequence[Item | StochxError],
    target: int | None,
    seed: int,
    draws: int,
) -> Iterator[ImageBatch | Failed]:
    """Yield classified batches of images of one size, and `Failed` for unreadable images and non-finite logits.

    The target is the class index `target`, or each image's top prediction. The logits of a stochastic network are
    means over `draws` of its noise.
    """
    failed, items = readable(sources, places, loaded)
    yield from failed
    for _, same_size in groupby(items, key=lambda pair: pair[1].image.shape):
        yield from _classified(model, sources, list(same_size), target, seed, draws)


def _classified(
    model: Classifier,
    sources: Sequence[Source],
    pairs: list[tuple[int, Item]],
    target: int | None,
    seed: int,
    draws: int,
) -> Iterator[ImageBatch | Failed]:
    images = torch.stack([item.image for _, item in pairs]).to(model.mean)
    draws = draws if model.noise != "none" else 1
    with seeded(seed, "logits", "/".join(item.key for _, item in pairs)):
        out = torch.stack([logits(model, images).float() for _ in range(draws)])
    chances, out = probabilities(model, out).mean(0), out.mean(0)
    finite = out.isfinite().all(1)
    for (i, _), fine in zip(pairs, finite.tolist(), strict=True):
        if not fine:
            yield not_finite(i, sources[i].name, "the model's logits are")
    if not finite.any():
        return
    pairs = [pair for pair, fine in zip(pairs, finite.tolist(), strict=True) if fine]
    images, chances, out = images[finite], chances[finite], out[finite]
    own = [target if sources[i].target is None else sources[i].target for i, _ in pairs]
    top = chances.argmax(1)
    chosen = torch.stack([top[n] if label is None else top.new_tensor(label) for n, label in enumerate(own)])
    yield ImageBatch(
        indices=[i for i, _ in pairs],
        names=[sources[i].name for i, _ in pairs],
        items=[item for _, item in pairs],
        keys=[f"{seed}/{item.key}" for _, item in pairs],
        images=images,
        probabilities=chances,
        logits=out,
        target=chosen,
        draws=draws,
        true=[sources[i].true for i, _ in pairs],
    )


def explanations(
    model: Classifier, methods: Mapping[str, Attribution], batch: ImageBatch
) -> dict[str, tuple[Explanation, float]]:
    """Return every method's maps of a batch, and the seconds per image."""
    results = {}
    for name, method in methods.items():
        start = time.perf_counter()
        explanation = mean_explanation(model, method, batch)
        if batch.images.is_cuda:
            torch.cuda.synchronize()
        results[name] = explanation, (time.perf_counter() - start) / len(batch.images)
    return results


def mean_explanation(model: Classifier, method: Attribution, batch: ImageBatch) -> Explanation:
    """Return a method's maps; for a stochastic network the mean over draws of its noise, with its error."""
    if model.noise == "none":
        return method(model, batch.images, batch.target, batch.keys)
    sums, parts = torch.zeros(0), list[Explanation]()
    for d in range(batch.draws):
        with seeded(0, "draw", d, batch.key):
            explanation = method(model, batch.images, batch.target, [f"{key}/{d}" for key in batch.keys])
        sums = explanation.map.new_zeros(2, 1, *explanation.map.shape) if not parts else sums
        sums[d % 2, 0] += explanation.map
        parts.append(replace(explanation, map=sums))
    return Explanation(
        map=sums.sum(0)[0] / batch.draws,
        error=split_half_error(sums, batch.draws),
        gap=_stacked([part.gap for part in parts], torch.mean),
        used=_stacked([part.used for part in parts], torch.sum),
        chosen=_mean_chosen([part.chosen for part in parts if part.chosen is not None]),
    )


def _stacked(values: Sequence[Tensor | None], reduce: Callable[[Tensor, int], Tensor]) -> Tensor | None:
    present = [value for value in values if value is not None]
    return reduce(torch.stack(present), 0) if present else None


def _mean_chosen(parts: Sequence[Chosen]) -> Chosen | None:
    if not parts:
        return None
    return Chosen(
        sigma=torch.stack([part.sigma for part in parts]).mean(0),
        objective=torch.stack([part.objective for part in parts]).mean(0),
        evaluations=torch.stack([part.evaluations for part in parts]).sum(0),
        low=torch.stack([part.low for part in parts]).amin(0),
        high=torch.stack([part.high for part in parts]).amax(0),
        noise=torch.stack([part.noise for part in parts]).mean(0),
    )


def not_finite(index: int, name: str, what: str) -> Failed:
    """Return the failure of an image with NaN or infinite results."""
    reason = RunError(
        f"`{name}`: {what} not finite",
        f"check the weights and the normalisation; precision is {current().precision}",
    )
    return Failed(index, name, reason)


def number(values: Tensor | None, n: int) -> float | None:
    """Return value n; None if there is none or it is not finite."""
    return None if values is None or not values[n].isfinite() else float(values[n])
