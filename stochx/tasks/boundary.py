"""Decision boundaries on planes: what networks say of every point, and how their maps compare."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.device import full_precision, in_batches
from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.fused import fused
from stochx.engine.plane import Plane, regions
from stochx.engine.seeds import seeded
from stochx.errors import RunError

HALVINGS = 30  # of the step in which a label changes
OUTSIDE = 1e-6  # how far rounding may carry a value out of [0, 1]


@dataclass(frozen=True)
class Predictions:
    """What a network says of N places: the class of the mean probabilities (N,) and that mean (N,).

    `disagreement` (N,) is the share of draws that do not say the most frequent class.
    """

    labels: Tensor
    confidence: Tensor
    disagreement: Tensor


@dataclass(frozen=True)
class BoundaryRecord:
    """One network on one plane: classes of the images, and how far along the first axis each label lasts.

    `distances` are in L2, `distances_eps` in units of eps in Linf (of a plane of one image); None where the label does
    not change within the plane.
    """

    index: int
    plane: str
    model: str
    said: Sequence[int]
    distances: Sequence[float | None]
    distances_eps: Sequence[float | None]
    seconds: float


@dataclass(frozen=True)
class BoundaryRow:
    """The numbers of one network on one plane, or (`all`) on all: means, the sum of regions, the median distance.

    `agreement` is the share of points with the label of the first network, `iou` the mean intersection over union of
    the classes that either shows; `regions` are connected by four neighbours; `shares` are those of the classes that
    appear. `distance` is the median over the images in L2, None where it ends beyond the plane; `changed` of `n` labels
    change within it. `distance_eps` is the same in units of eps in Linf.
    """

    plane: str
    model: str
    agreement: float
    iou: float
    regions: int
    shares: Mapping[str, float]
    confidence: float
    disagreement: float | None
    distance: float | None
    distance_eps: float | None
    changed: int
    n: int
    seconds: float


def predict_at(
    model: Classifier,
    plane: Plane,
    places: Tensor,
    draws: int,
    seed: int,
    report: Callable[[int], None] = lambda places: None,
) -> Predictions:
    """What `model` says at coordinates `places` (N, 2), over `draws` if it is stochastic.

    Draw d of a network whose noise is shared in a batch is the same one at all places: a function of its own. Else each
    place has its own, which depends on where it stands in `places`. Raises `RunError` for logits that are NaN.
    """
    count, here = draws if model.noise != "none" else 1, plane.to(model.mean)
    parts = dict[int, tuple[Tensor, Tensor, Tensor]]()

    def work(start: int, stop: int) -> None:
        x = here.points(places[start:stop])
        total = votes = torch.zeros(())
        for d in range(count):
            with seeded(seed, "plane", d, start if model.noise == "sample" else 0), full_precision():
                out = logits(model, x)
            if not out.isfinite().all():
                raise RunError("the model's logits are not finite", "check the weights and the normalisation")
            total = out.softmax(1) + total.to(out)
            votes = F.one_hot(out.argmax(1), out.shape[1]) + votes.to(out.device)
        sure, label = (total / count).max(1)
        parts[start] = label.cpu(), sure.cpu(), (1 - votes.amax(1) / count).cpu()
        report(stop - start)

    in_batches(len(places), 2 * fused(model).rows(here.origin[None]), work)
    return Predictions(*(torch.cat(part) for part in zip(*(parts[start] for start in sorted(parts)), strict=True)))


def predict_grid(
    model: Classifier,
    plane: Plane,
    resolution: int,
    draws: int,
    seed: int,
    report: Callable[[int], None] = lambda places: None,
) -> Predictions:
    """What `model` says of every cell of the plane's grid, all (H, W)."""
    a, b = plane.grid(resolution)
    places = torch.stack(torch.meshgrid(a, b, indexing="xy"), -1)
    found = predict_at(model, plane, places.flatten(0, 1), draws, seed, report)
    return Predictions(*(part.view(len(b), len(a)) for part in (found.labels, found.confidence, found.disagreement)))


def distances(
    model: Classifier, plane: Plane, resolution: int, draws: int, seed: int
) -> tuple[list[int], list[float | None]]:
    """The classes of the marked images, and how far along the first axis, either way, each of them lasts.

    The axis is walked in `resolution` steps; the one in which the label changes is halved until nothing is left of it,
    by asking the network. In coordinates of the plane; None where the label lasts to the plane's end.
    """
    count, low, high = len(plane.marks), float(plane.low[0]), float(plane.high[0])
    steps = torch.arange(resolution + 1, dtype=torch.float64) * ((high - low) / resolution)
    ways = torch.tensor([-1.0, 1.0], dtype=torch.float64)

    def same(distance: Tensor, of: Tensor | None) -> Tensor:
        """(M, 2, S) distances of each mark both ways -> their labels, or whether these are `of` (M, 1, 1)."""
        a = (plane.marks[:, 0].view(-1, 1, 1) + ways.view(1, 2, 1) * distance).clamp(low, high)
        places = torch.stack([a, plane.marks[:, 1].view(-1, 1, 1).expand_as(a)], -1)
        labels = predict_at(model, plane, places.flatten(0, 2), draws, seed).labels.view(a.shape)
        return labels if of is None else labels == of

    labels = same(steps.expand(count, 2, -1), None)
    own = labels[:, :1, :1]
    changes = labels != own
    last = changes.int().argmax(2, keepdim=True)  # the first step with another label
    near, far = steps[(last - 1).clamp(min=0)], steps[last]
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        stays = same(middle, own)
        near, far = torch.where(stays, middle, near), torch.where(stays, far, middle)
    found = torch.where(changes.any(2), ((near + far) / 2).squeeze(2), torch.inf).amin(1)
    return own.flatten().tolist(), [value if math.isfinite(value) else None for value in found.tolist()]


def record(
    index: int,
    names: tuple[str, str],
    model: Classifier,
    plane: Plane,
    resolution: int,
    draws: int,
    seed: int,
    eps: float | None = None,
    report: Callable[[int], None] = lambda places: None,
) -> tuple[BoundaryRecord, Predictions]:
    """All that the network is asked for on one plane; `names` are those of the plane and of the network.

    `eps` is the unit of coordinates that are changes of a pixel.
    """
    start = time.perf_counter()
    found = predict_grid(model, plane, resolution, draws, seed, report)
    said, far = distances(model, plane, resolution, draws, seed)
    in_l2 = [None if d is None else d * plane.length for d in far]
    in_eps = [None if d is None or not eps else d / eps for d in far]
    return BoundaryRecord(index, *names, said, in_l2, in_eps, round(time.perf_counter() - start, 3)), found


def outside(plane: Plane, resolution: int) -> tuple[Tensor, Tensor]:
    """Of every cell of the grid (H, W): the share of its values outside [0, 1], and its Linf distance to the origin."""
    a, b = plane.grid(resolution)
    parts = []
    for row in b:
        x = plane.points(torch.stack([a, row.expand_as(a)], -1))
        beyond = ((x < -OUTSIDE) | (x > 1 + OUTSIDE)).to(x).mean((1, 2, 3))
        parts.append(torch.stack([beyond, (x - plane.origin).abs().amax((1, 2, 3))]))
    share, far = torch.stack(parts, 1).cpu()
    return share, far


def agreement(one: Tensor, two: Tensor, count: int) -> tuple[float, float]:
    """The share of equal labels, and the mean intersection over union of the classes that one of the maps shows."""
    both = torch.stack([F.one_hot(labels.flatten(), count) for labels in (one, two)]).bool()
    meet, join = both.all(0).sum(0), both.any(0).sum(0)
    shown = join > 0
    return float((one == two).double().mean()), float((meet[shown] / join[shown].double()).mean())


def measure(
    found: BoundaryRecord, said: Predictions, first: Predictions, classes: Sequence[str], noisy: bool
) -> BoundaryRow:
    """The numbers of one network on one plane, next to the `first` network's."""
    count = said.labels.flatten().bincount(minlength=len(classes))
    shares = {classes[k]: float(count[k]) / said.labels.numel() for k in count.argsort(descending=True, stable=True)}
    share, iou = agreement(said.labels, first.labels, len(classes))
    return BoundaryRow(
        plane=found.plane,
        model=found.model,
        agreement=share,
        iou=iou,
        regions=int(regions(said.labels).max()) + 1,
        shares={name: value for name, value in shares.items() if value},
        confidence=float(said.confidence.double().mean()),
        disagreement=float(said.disagreement.double().mean()) if noisy else None,
        distance=_median(found.distances),
        distance_eps=_median(found.distances_eps),
        changed=sum(value is not None for value in found.distances),
        n=len(found.distances),
        seconds=found.seconds,
    )


def pooled_row(rows: Sequence[BoundaryRow], records: Sequence[BoundaryRecord]) -> BoundaryRow:
    """One network's planes together, from its rows and records."""
    shown = dict.fromkeys(name for row in rows for name in row.shares)
    noise = [row.disagreement for row in rows if row.disagreement is not None]
    return BoundaryRow(
        plane="all",
        model=rows[0].model,
        agreement=fmean(row.agreement for row in rows),
        iou=fmean(row.iou for row in rows),
        regions=sum(row.regions for row in rows),
        shares={name: fmean(row.shares.get(name, 0.0) for row in rows) for name in shown},
        confidence=fmean(row.confidence for row in rows),
        disagreement=fmean(noise) if noise else None,
        distance=_median([value for one in records for value in one.distances]),
        distance_eps=_median([value for one in records for value in one.distances_eps]),
        changed=sum(row.changed for row in rows),
        n=sum(row.n for row in rows),
        seconds=sum(row.seconds for row in rows),
    )


def _median(values: Sequence[float | None]) -> float | None:
    """The median, where None is farther than all others."""
    middle = median(math.inf if value is None else value for value in values)
    return middle if math.isfinite(middle) else None
