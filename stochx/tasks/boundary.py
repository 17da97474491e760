"""Decision boundaries on planes: predictions at every point, and comparisons between networks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.network.classifier import Classifier
from stochx.engine.passes import Report, unreported
from stochx.engine.plane import Plane, regions
from stochx.tasks.sequential import LOOK, REACH, Lattice, Points, Predictions, Tally, predict

HALVINGS = 30  # bisections of the step in which the label changes
FINE = 60  # cells along a plane whose neighbours take no turns; those of a finer grid do, up to this distance
MOST_TURNS = 3  # cells along either axis
OUTSIDE = 1e-6  # tolerance for rounding outside of [0, 1]


@dataclass(frozen=True)
class BoundaryRecord:
    """A network on a plane: predicted classes of the images, and the distances along the first axis to another class.

    `distances` are in L2, `distances_eps` in units of eps in Linf (for planes of one image); None if the label does not
    change within the plane.
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
    """The results of a network on a plane, or on all (`all`): means, the sum of regions, the median distance.

    `agreement` is the share of points with the label of the first network, `iou` the mean intersection over union of
    the classes that appear in either; `regions` are connected by four neighbours; `shares` are the areas of the classes
    that appear. `distance` is the median L2 distance over images, None if it lies beyond the plane; `changed` of `n`
    labels change within it. `distance_eps` is the same in units of eps in Linf. `draws` is their mean number per point.
    """

    plane: str
    model: str
    agreement: float
    iou: float
    regions: int
    shares: Mapping[str, float]
    confidence: float
    disagreement: float | None
    draws: float
    distance: float | None
    distance_eps: float | None
    changed: int
    n: int
    seconds: float


def predict_grid(
    model: Classifier,
    plane: Plane,
    resolution: int,
    draws: int,
    seed: int,
    report: Report = unreported,
) -> Predictions:
    """Predict at every cell of the plane's grid, over up to `draws` draws; all results are (H, W).

    Where cells are small, neighbours take turns in the draws.
    """
    a, b = plane.grid(resolution)
    places = torch.stack(torch.meshgrid(a, b, indexing="xy"), -1)
    apart = stride(resolution, draws if model.noise != "none" else 1)
    lattice = Lattice((len(b), len(a)), (apart, apart))
    return predict(model, _points(model, plane, places), lattice, draws, seed, report)


def stride(resolution: int, draws: int) -> int:
    """Return how far apart the points are, along either axis, at which one and the same draw is computed.

    It is 1 where so few draws are wanted that some points would get none.
    """
    return max(1, min(MOST_TURNS, resolution // FINE)) if draws >= LOOK else 1


def _points(model: Classifier, plane: Plane, places: Tensor) -> Points:
    """Return the images at coordinates `places` (..., 2), by their index."""
    here, flat = plane.to(model.mean), places.flatten(0, -2)
    return lambda where: here.points(flat[where])


def distances(
    model: Classifier, plane: Plane, resolution: int, draws: int, seed: int, report: Report = unreported
) -> tuple[list[int], list[float | None]]:
    """Return the predicted classes of the marked images, and the distance along the first axis to another class.

    The axis is searched in both directions in `resolution` steps; the step in which the label changes is bisected.
    Distances are in coordinates of the plane; None if the label does not change within it.
    """
    count, low, high = len(plane.marks), float(plane.low[0]), float(plane.high[0])
    steps = torch.arange(resolution + 1, dtype=torch.float64) * ((high - low) / resolution)
    ways = torch.tensor([-1.0, 1.0], dtype=torch.float64)

    def places(distance: Tensor) -> Tensor:
        """Return the coordinates (M, 2, S, 2) at distances (M, 2, S) from each mark."""
        a = (plane.marks[:, 0].view(-1, 1, 1) + ways.view(1, 2, 1) * distance).clamp(low, high)
        return torch.stack([a, plane.marks[:, 1].view(-1, 1, 1).expand_as(a)], -1)

    line = _points(model, plane, places(steps.expand(count, 2, -1)))
    lattice = Lattice((2 * count, len(steps)), reach=(0, REACH))
    labels = predict(model, line, lattice, draws, seed, report).labels.view(count, 2, -1)
    own = labels[:, :1, :1]
    changes = labels != own
    last = changes.int().argmax(2, keepdim=True)  # first step with another label
    near, far = steps[(last - 1).clamp(min=0)], steps[last]
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        stays = _labels(model, plane, places(middle), draws, seed).view(middle.shape) == own
        near, far = torch.where(stays, middle, near), torch.where(stays, far, middle)
    nearest = torch.where(changes.any(2), ((near + far) / 2).squeeze(2), torch.inf).amin(1)
    return own.flatten().tolist(), [value if math.isfinite(value) else None for value in nearest.tolist()]


def _labels(model: Classifier, plane: Plane, places: Tensor, draws: int, seed: int) -> Tensor:
    """Return the labels (N,) at coordinates (..., 2), all of which get all draws."""
    lattice = Lattice((1, places[..., 0].numel()))
    tally = Tally(model, _points(model, plane, places), lattice, seed)
    tally.draw(torch.arange(lattice.size), 0, draws if model.noise != "none" else 1)
    return tally.labels()


def points_of(plane: Plane, resolution: int) -> int:
    """Return the number of points that `record` reports: those of the grid, and those on the lines of distances."""
    return math.prod(map(len, plane.grid(resolution))) + 2 * len(plane.marks) * (resolution + 1)


def record(
    index: int,
    names: tuple[str, str],
    model: Classifier,
    plane: Plane,
    resolution: int,
    draws: int,
    seed: int,
    eps: float | None = None,
    report: Report = unreported,
) -> tuple[BoundaryRecord, Predictions]:
    """Evaluate the network on one plane; `names` are those of the plane and of the network.

    `eps` is the unit of coordinates that are changes of a pixel value.
    """
    start = time.perf_counter()
    predictions = predict_grid(model, plane, resolution, draws, seed, report)
    classes, far = distances(model, plane, resolution, draws, seed, report)
    in_l2 = [None if d is None else d * plane.length for d in far]
    in_eps = [None if d is None or not eps else d / eps for d in far]
    return BoundaryRecord(index, *names, classes, in_l2, in_eps, round(time.perf_counter() - start, 3)), predictions


def outside(plane: Plane, resolution: int) -> tuple[Tensor, Tensor]:
    """Return, per cell of the grid (H, W), the share of values outside [0, 1] and the Linf distance to the origin."""
    a, b = plane.grid(resolution)
    parts = []
    for row in b:
        x = plane.points(torch.stack([a, row.expand_as(a)], -1))
        beyond = ((x < -OUTSIDE) | (x > 1 + OUTSIDE)).to(x).mean((1, 2, 3))
        parts.append(torch.stack([beyond, (x - plane.origin).abs().amax((1, 2, 3))]))
    share, far = torch.stack(parts, 1).cpu()
    return share, far


def agreement(labels_a: Tensor, labels_b: Tensor, count: int) -> tuple[float, float]:
    """Return the share of equal labels, and the mean intersection over union of the classes in either map."""
    both = torch.stack([F.one_hot(labels.flatten(), count) for labels in (labels_a, labels_b)]).bool()
    meet, join = both.all(0).sum(0), both.any(0).sum(0)
    shown = join > 0
    return float((labels_a == labels_b).double().mean()), float((meet[shown] / join[shown].double()).mean())


def measure(
    record: BoundaryRecord, predictions: Predictions, first: Predictions, classes: Sequence[str], noisy: bool
) -> BoundaryRow:
    """Return the row of one network on one plane, compared with the `first` network."""
    count = predictions.labels.flatten().bincount(minlength=len(classes))
    shares = {
        classes[k]: float(count[k]) / predictions.labels.numel() for k in count.argsort(descending=True, stable=True)
    }
    share, iou = agreement(predictions.labels, first.labels, len(classes))
    return BoundaryRow(
        plane=record.plane,
        model=record.model,
        agreement=share,
        iou=iou,
        regions=int(regions(predictions.labels).max()) + 1,
        shares={name: value for name, value in shares.items() if value},
        confidence=float(predictions.confidence.double().mean()),
        disagreement=float(predictions.disagreement.double().mean()) if noisy else None,
        draws=float(predictions.draws.double().mean()),
        distance=_median(record.distances),
        distance_eps=_median(record.distances_eps),
        changed=sum(value is not None for value in record.distances),
        n=len(record.distances),
        seconds=record.seconds,
    )


def pooled_row(rows: Sequence[BoundaryRow], records: Sequence[BoundaryRecord]) -> BoundaryRow:
    """Return the row of one network over all planes, from its rows and records."""
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
        draws=fmean(row.draws for row in rows),
        distance=_median([value for record in records for value in record.distances]),
        distance_eps=_median([value for record in records for value in record.distances_eps]),
        changed=sum(row.changed for row in rows),
        n=sum(row.n for row in rows),
        seconds=sum(row.seconds for row in rows),
    )


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median, with None as infinity."""
    middle = median(math.inf if value is None else value for value in values)
    return middle if math.isfinite(middle) else None
