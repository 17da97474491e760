"""Certificates of images by randomised smoothing, and the share of them that reaches a radius."""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stochx.engine.device import full_precision
from stochx.engine.gradients import predictions
from stochx.engine.grid_noise import NoisyCopies
from stochx.engine.io.data import Item
from stochx.engine.io.forms import Count
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import Noisy, at_scale
from stochx.engine.smoothing import certified_radius, check_independent, votes
from stochx.engine.statistics import clopper_pearson, wilson
from stochx.engine.world import World
from stochx.errors import StochxError
from stochx.tasks.batches import Failed, Source, readable, sweep_images


@dataclass(frozen=True)
class Smoothing:
    """Gaussian noise of standard deviation `sigma` in pixel units, one number or one per channel, and how it is drawn.

    `selection` draws choose an image's class, and `draws` others estimate its probability, with a bound that is above
    the true one with a probability of at most `alpha`. `instead_of` is the network's own noise that this one stands
    for; None where it is added to a network as it is.
    """

    sigma: tuple[float, ...]
    selection: int = 100
    draws: int = 10_000
    alpha: float = 0.001
    instead_of: Noisy | None = None

    @property
    def largest(self) -> float:
        """The largest radius that these draws can certify: that of an image whose draws all agree."""
        return certified_radius(clopper_pearson(self.draws, self.draws, self.alpha), self.sigma) or 0.0


@dataclass(frozen=True)
class Certificate:
    """An image: its label, the class that its noisy copies chose, and the L2 radius in which the vote stays this class.

    `count` of `draws` other copies agree, so that `p` is a lower bound of the class's probability. The vote abstains,
    with radius 0, where that is not above 1/2. `clean` tells whether the network is right without any noise, None where
    it draws noise that cannot be turned off.
    """

    index: Count
    image: str
    label: Count
    prediction: Count
    count: Count
    draws: Count
    p: float
    radius: float
    abstained: bool
    clean: bool | None
    seconds: float


def certify(
    model: Classifier,
    sources: Sequence[Source],
    smoothing: Smoothing,
    *,
    seed: int = 0,
    world: World | None = None,
    done: Collection[int] = (),
    report: Callable[[list[Certificate | Failed], int], None] = lambda records, items: None,
) -> list[Certificate | Failed]:
    """Certify all images, and return their records in order.

    Raises an error for a network whose draws are not independent.
    """
    instead = smoothing.instead_of
    with contextlib.nullcontext() if instead is None else at_scale(instead, 0.0):
        check_independent(model)

        def work(places: range, loaded: list[Item | StochxError]) -> list[Certificate | Failed]:
            failed, items = readable(sources, places, loaded)
            return [*failed, *(_certificate(model, sources[i].name, i, item, smoothing, seed) for i, item in items)]

        return sweep_images(sources, 1, work, world, done, report)  # an image is batches of copies


def _certificate(model: Classifier, name: str, index: int, item: Item, smoothing: Smoothing, seed: int) -> Certificate:
    start = time.perf_counter()
    copies = NoisyCopies.of(item.image, smoothing.sigma)
    prediction = int(votes(model, copies, smoothing.selection, seed, "selection", item.key).argmax())
    count = int(votes(model, copies, smoothing.draws, seed, "estimation", item.key)[prediction])
    p = max(0.0, clopper_pearson(count, smoothing.draws, smoothing.alpha) - copies.slack)
    radius = certified_radius(p, smoothing.sigma)
    assert item.label is not None  # as the classes of the data set were matched with the network's
    return Certificate(
        index=index,
        image=name,
        label=item.label,
        prediction=prediction,
        count=count,
        draws=smoothing.draws,
        p=p,
        radius=radius or 0.0,
        abstained=radius is None,
        clean=_is_right(model, item.image, item.label),
        seconds=time.perf_counter() - start,
    )


def _is_right(model: Classifier, image: Tensor, label: int) -> bool | None:
    """Return if the network is right without noise; None if it has noise that cannot be turned off."""
    with at_scale(model, 0.0), full_precision():
        if model.noise != "none":
            return None
        return int(predictions(model, image[None].to(model.mean))) == label


@dataclass(frozen=True)
class CertifiedRow:
    """Certified accuracy at a radius: the share of images that are right, with a certificate of at least this radius.

    With Wilson's 95 % interval over images.
    """

    radius: float
    certified: float
    low: float
    high: float
    n: int


def certified_accuracy(records: Sequence[Mapping[str, Any]], radii: Sequence[float]) -> list[CertifiedRow]:
    """Return the table, from stored records."""
    held = sorted(record["radius"] for record in records if is_certified(record, 0.0))
    rows = []
    for radius in radii:
        share = wilson(len(held) - bisect_left(held, radius), len(records))
        rows.append(CertifiedRow(radius, share.mean, share.low, share.high, share.n))
    return rows


def is_certified(record: Mapping[str, Any], radius: float) -> bool:
    """Return if the vote on an image is right, and stays so within the radius."""
    right: bool = record["prediction"] == record["label"] and not record["abstained"]
    return right and record["radius"] >= radius


@dataclass(frozen=True)
class Overview:
    """What all images have in common: the average certified radius, where wrong images and abstentions count as 0.

    `abstained` is the share of images without a certificate; `clean` the accuracy of the network without noise, which
    is another classifier, with Wilson's interval; None where it cannot be told. `full` is the share of right images
    whose draws all agree, so that their number limits the radius.
    """

    acr: float
    abstained: float
    full: float
    clean: float | None
    clean_low: float | None
    clean_high: float | None


def overview(records: Sequence[Mapping[str, Any]]) -> Overview:
    """Summarise stored records."""
    total, right, full, abstained, radii, cleans = len(records), 0, 0, 0, 0.0, list[bool | None]()
    for record in records:  # once: there may be a million on the disk
        abstained += record["abstained"]
        cleans.append(record["clean"])
        if is_certified(record, 0.0):
            right += 1
            full += record["count"] == record["draws"]
            radii += record["radius"]
    clean = None if None in cleans else wilson(sum(map(bool, cleans)), total)
    return Overview(
        acr=radii / total,
        abstained=abstained / total,
        full=full / max(1, right),
        clean=None if clean is None else clean.mean,
        clean_low=None if clean is None else clean.low,
        clean_high=None if clean is None else clean.high,
    )
