"""Predictions of a stochastic network at neighbouring points, with more draws where the first ones leave doubt.

The outputs of a draw hardly differ between points that are close together. So neighbours take turns: in a lattice with
a stride of three, each draw is computed at a ninth of the points, and interpolated between them. And points ask for
more draws only as long as the votes around them are not clear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.device import full_precision, in_batches
from stochx.engine.gradients import finite, logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.fused import fused
from stochx.engine.passes import Report, unreported
from stochx.engine.seeds import seeded

LOOK = 9  # draws between two looks at the votes; as many as neighbours take turns in at most
REACH = 3  # points to either side that are looked at together
ERROR = 0.01  # probability to see votes as clear as they must be if another class had as many
FIRST_SHARE = 0.5  # part of the progress that the first look counts for, as nobody knows how many follow
TALLY_BYTES = 2**29  # memory for the sums over draws

Points = Callable[[Tensor], Tensor]
"""Takes the indices (N,) of points, and returns their images (N, C, H, W)."""


@dataclass(frozen=True)
class Lattice:
    """Points in rows (H) and columns (W), by their index row by row.

    Draw d is computed at the points whose place within `stride` is d modulo their number. `reach` is the distance of
    the neighbours that are looked at together, along a column and along a row.
    """

    shape: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    reach: tuple[int, int] = (REACH, REACH)

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(self.shape)

    @property
    def turns(self) -> Tensor:
        """Which of the draws, modulo the product of `stride`, each point (N,) computes."""
        row, column = (torch.arange(count) % step for count, step in zip(self.shape, self.stride, strict=True))
        return (row[:, None] * self.stride[1] + column).flatten()

    def interpolate(self, values: Tensor) -> Tensor:
        """Add up values (N, K) with the weights of linear interpolation between points that are `stride` apart."""
        down, across = (_tent(step).to(values) for step in self.stride)
        padding = (len(down) // 2, len(across) // 2)
        maps = values.T.reshape(-1, 1, *self.shape)
        sums: Tensor = F.conv2d(maps, torch.outer(down, across)[None, None], padding=padding)
        return sums.flatten(1).T

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values (N,) over each point's neighbourhood."""
        kernel = _kernel(self.reach)
        return F.avg_pool2d(values.view(1, *self.shape), kernel, 1, self.reach, count_include_pad=False).flatten()

    def largest(self, values: Tensor, reach: tuple[int, int]) -> Tensor:
        """Return the largest of values (N,) within `reach` of each point."""
        return F.max_pool2d(values.double().view(1, *self.shape), _kernel(reach), 1, reach).flatten()


def _kernel(reach: tuple[int, int]) -> tuple[int, int]:
    return 2 * reach[0] + 1, 2 * reach[1] + 1


def _tent(step: int) -> Tensor:
    rise = torch.arange(1, step + 1) / step
    return torch.cat([rise, rise[:-1].flip(0)])


@dataclass(frozen=True)
class Predictions:
    """Predictions at points: the class of the mean probabilities, and its mean probability.

    `disagreement` is the share of draws that do not predict this class, `draws` how many were computed at the point.
    """

    labels: Tensor
    confidence: Tensor
    disagreement: Tensor
    draws: Tensor


class Tally:
    """Sums of probabilities, and votes, over the draws of a network at the points of a lattice.

    If noise is shared in a batch, draw d is the same function at all points. Otherwise each point has draws of its own,
    which depend on the first point of their batch. `depth` is how many draws a point and its neighbours have taken
    turns in. `offset` is the index of the lattice's first point among all points.
    """

    def __init__(self, model: Classifier, points: Points, lattice: Lattice, seed: int, offset: int = 0) -> None:
        self._model, self._points, self._seed, self.lattice, self._offset = model, points, seed, lattice, offset
        self.independent = model.noise == "sample"
        self._total = torch.zeros(lattice.size, len(model.classes), dtype=model.mean.dtype, device=model.mean.device)
        self._votes = torch.zeros(self._total.shape, dtype=torch.int32, device=self._total.device)
        self.draws, self.depth = torch.zeros(2, lattice.size, dtype=torch.long)

    def draw(self, where: Tensor, first: int, stop: int, report: Report = unreported) -> None:
        """Add draws `first` to `stop` at the points `where` (N,), in turns; raises `RunError` for logits not finite."""
        count, turns = math.prod(self.lattice.stride), self.lattice.turns[where]
        for turn in range(count):
            mine, numbers = where[turns == turn], [d for d in range(first, stop) if d % count == turn]
            if len(mine) and numbers:
                self._compute(mine, numbers, report)
            else:
                report(len(mine))
        self.depth[where] = stop

    def _compute(self, where: Tensor, numbers: Sequence[int], report: Report) -> None:
        """Add the draws of these numbers at the points `where`."""

        def work(start: int, end: int) -> None:
            here = where[start:end]
            place, x = here.to(self._total.device), self._points(here + self._offset)
            total, votes = self._total[place], self._votes[place]
            for d in numbers:
                with seeded(self._seed, "plane", d, int(here[0]) + self._offset if self.independent else 0):
                    out = finite(logits(self._model, x))
                total += out.softmax(1)
                votes += F.one_hot(out.argmax(1), out.shape[1])
            self._total[place], self._votes[place] = total, votes
            self.draws[here] += len(numbers)
            report(end - start)

        with full_precision():
            in_batches(len(where), 2 * fused(self._model).rows(self._points(where[:1] + self._offset)), work)

    def labels(self) -> Tensor:
        """Return the class (N,) of the mean probabilities, over draws and between points."""
        labels: Tensor = self.lattice.interpolate(self._total).argmax(1)
        return labels.cpu()

    def predictions(self) -> Predictions:
        """Return what the draws so far say of all points."""
        labels = self.labels()
        sure, share = (self._of(labels, sums) for sums in (self._total, self._votes))
        weights = self.lattice.interpolate(torch.ones_like(sure)[:, None])
        sure, share = (self.lattice.interpolate(torch.stack([sure, share], 1)) / weights).T
        return Predictions(labels, sure.to(self._total.dtype), (1 - share).clamp(0), self.draws.clone())

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return the shares of draws (N,) that predict the label, and those of the most frequent other class."""
        labels = self.labels()
        others = self._votes.scatter(1, labels[:, None].to(self._votes.device), -1).amax(1).cpu() / self.draws.double()
        return self._of(labels, self._votes), others

    def _of(self, labels: Tensor, sums: Tensor) -> Tensor:
        """Return the part of the draws that each point gives its label: `sums` (N, K) are over draws."""
        given: Tensor = sums.gather(1, labels[:, None].to(sums.device)).squeeze(1).cpu()
        shares: Tensor = given / self.draws.double()
        return shares


def predict(
    model: Classifier, points: Points, lattice: Lattice, draws: int, seed: int, report: Report = unreported
) -> Predictions:
    """Predict at all points of a lattice; all results are (H, W).

    The neighbours of a stochastic network's point take turns in `LOOK` draws, and in as many again, up to `draws`, as
    long as one of them is not `settled`. `report` counts points.
    """
    most, width = draws if model.noise != "none" else 1, lattice.shape[1]
    rows, parts = max(1, TALLY_BYTES // (16 * len(model.classes) * width)), list[Predictions]()
    for top in range(0, lattice.shape[0], rows):
        band = replace(lattice, shape=(min(rows, lattice.shape[0] - top), width))
        tally = Tally(model, points, band, seed, top * width)
        _fill(tally, most, Pace(band.size, report))
        parts.append(tally.predictions())
    joined = (torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Predictions))
    return Predictions(*(part.view(lattice.shape) for part in joined))


def _fill(tally: Tally, most: int, pace: Pace) -> None:
    """Draw until every point is settled, or has had `most` draws."""
    lattice, first = tally.lattice, min(LOOK, most)
    every, between = torch.arange(lattice.size), (lattice.stride[0] - 1, lattice.stride[1] - 1)
    tally.draw(every, 0, first, pace.part(lattice.size, FIRST_SHARE if first < most else 1.0))
    while True:
        open_ = (tally.depth < most) & (lattice.largest(~settled(tally), between) > 0)
        if not open_.any():
            break
        for before in tally.depth[open_].unique().tolist():
            where = every[open_ & (tally.depth == before)]
            after, bound = min(before + LOOK, most), int((most - tally.depth[open_]).sum())
            tally.draw(where, before, after, pace.part(len(where), len(where) * (after - before) / bound))
    pace.finish()


def settled(tally: Tally) -> Tensor:
    """Return a mask of the points (N,) that more draws would hardly change.

    A point is settled by its neighbourhood, so that its own draws hardly decide about more of them: to stop wherever
    all draws of a point agree would make shares much too small. All points of the neighbourhood must have one label,
    and it must lead. Let a be the mean share of draws for the label, b of those for the next class, n the number of
    independent draws: the depth if noise is shared in a batch, else all draws in the neighbourhood. Then

        exp(-n KL((1 - a + b) / 2 || 1/2)) <= ERROR

    bounds the probability of such a lead if both were as frequent (Chernoff & Hoeffding).
    """
    lattice, labels = tally.lattice, tally.labels()
    alike = lattice.largest(labels, lattice.reach) == -lattice.largest(-labels, lattice.reach)
    first, second = (lattice.mean(share) for share in tally.shares())
    against = ((1 - first + second) / 2).clamp(0, 0.5)
    divergence = math.log(2) + torch.xlogy(against, against) + torch.xlogy(1 - against, 1 - against)
    everywhere = lattice.mean(tally.draws.double()) * math.prod(_kernel(lattice.reach))
    independent = everywhere if tally.independent else tally.depth
    return alike & (independent * divergence >= -math.log(ERROR))


class Pace:
    """The progress of work whose end is not known: parts of what is left, reported as whole points."""

    def __init__(self, points: int, report: Report) -> None:
        self._left, self._shown, self._points, self._report = float(points), 0, points, report

    def part(self, count: int, share: float) -> Report:
        """Return the report of a part of `count` steps that is worth `share` of what is left now."""
        step = self._left * share / count

        def report(steps: int) -> None:
            self._left -= step * steps
            self._show(int(self._points - self._left))

        return report

    def finish(self) -> None:
        """Report all that is left."""
        self._show(self._points)

    def _show(self, points: int) -> None:
        self._report(points - self._shown)
        self._shown = points
