"""The state of an APGD search, and its two step rules: halving, and sparsity for L1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from stochx.engine.ascent import Evaluation
from stochx.engine.gradients import noise
from stochx.engine.seeds import Key
from stochx.engine.threat import Ball, Norm, sparse_sign

KEPT = 0.75  # share of the new step; the rest continues the former one
SHRINKS = 1.5  # factor by which steps are sparser than the best perturbation, and by which they shorten
SPARSER = 0.95  # the best perturbation counts as sparser below this share of its former non-zero values
SHORTEST = 0.1  # shortest step, as a share of the radius
STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: radii as multiples of eps, each with its share of the steps

State = TypeVar("State", bound="Search | HalvingSteps | SparseSteps")


def keep_active(state: State, stays: Tensor) -> State:
    """Return the state of the images that stay active; every tensor is (A, ...) over the active images."""
    parts = {part.name: getattr(state, part.name) for part in fields(state)}
    cut: dict[str, Any] = {name: part[stays] for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(state, **cut)


def stages(ball: Ball, steps: int) -> list[tuple[Ball, int]]:
    """Return the balls to search in turn, with the steps in each; L1 starts in wider balls."""
    if ball.norm != "l1":
        return [(ball, steps)]
    first = [(replace(ball, eps=wider * ball.eps), int(share * steps)) for wider, share in STAGES[:-1]]
    return [stage for stage in first if stage[1]] + [(ball, steps - sum(count for _, count in first))]


@dataclass
class Search:
    """The current and the best point of each image.

    On stochastic networks the released AutoAttack picks the best point, halves steps and declares success by the last
    draw alone; here all three use the mean over the `eot` draws.
    """

    center: Tensor
    points: Tensor
    slope: Tensor
    logits: Tensor
    best: Tensor
    best_slope: Tensor
    top: Tensor

    @classmethod
    def begin(cls, center: Tensor, points: Tensor, evaluation: Evaluation) -> Search:
        """Return the search that starts at `points`."""
        best = points, evaluation.gradient, evaluation.loss
        return cls(center, points, evaluation.gradient, evaluation.logits, *best)

    def move(self, points: Tensor, evaluation: Evaluation) -> None:
        """Move to `points` and update the best ones."""
        self.points, self.slope, self.logits = points, evaluation.gradient, evaluation.logits
        better = (evaluation.loss > self.top).view(-1, 1, 1, 1)
        self.best, self.best_slope = points.where(better, self.best), self.slope.where(better, self.best_slope)
        self.top = self.top.maximum(evaluation.loss)

    def revert(self, returns: Tensor) -> None:
        """Return to the best point, for the images selected by `returns` (A,)."""
        wide = returns.view(-1, 1, 1, 1)
        self.points, self.slope = self.best.where(wide, self.points), self.best_slope.where(wide, self.slope)


@dataclass
class HalvingSteps:
    """Momentum, and one step length per image, halved when progress stalls (Croce & Hein, 2020).

    Three details are those of the authors' code, with which all figures were measured, not of their algorithm 1: rises
    that just reach `rho` do not suffice; the first step counts as a rise if its loss is above 0, and the first step
    after a return if it is above the loss before the return; and the first checkpoint looks at rises alone.
    """

    ball: Ball
    due: dict[int, int]
    rho: float
    before: Tensor
    value: Tensor
    length: Tensor
    rises: Tensor
    top_then: Tensor
    halved: Tensor
    share: float = 1.0

    @classmethod
    def begin(cls, search: Search, ball: Ball, steps: int, rho: float, density: float) -> HalvingSteps:
        """Start with a step of twice the radius."""
        none, top = torch.zeros_like(search.top), search.top.clone()
        length = torch.full_like(none, 2 * ball.eps)
        return cls(ball, dict(spans(steps)), rho, search.points, none, length, none, top, ~none.bool())

    def check(self, search: Search, step: int) -> None:
        """Halve the steps of images whose loss rose too rarely or whose best loss did not improve."""
        if step not in self.due:
            return
        self.halved = (self.rises <= self.rho * self.due[step]) | (~self.halved & (search.top == self.top_then))
        self.length = self.length.where(~self.halved, self.length / 2)
        self.rises, self.top_then = torch.zeros_like(self.rises), search.top
        search.revert(self.halved)

    def next(self, search: Search) -> Tensor:
        """Return the next points: `share` of the step follows the gradient, the rest the previous step."""
        points, center = search.points, search.center
        steep = self.ball.project(points + self.length.view(-1, 1, 1, 1) * self.ball.ascent(search.slope), center)
        step = self.share * (steep - points) + (1 - self.share) * (points - self.before)
        return self.ball.project(points + step, center)

    def record(self, search: Search, evaluation: Evaluation) -> None:
        """Count the steps that raised the loss."""
        self.rises = self.rises + (evaluation.loss > self.value)
        self.before, self.value, self.share = search.points, evaluation.loss, KEPT


def spans(steps: int) -> Iterator[tuple[int, int]]:
    """Yield each checkpoint and the steps since the last: ceil(p_j * steps) for p_j = 0.22, 0.41, 0.57, 0.70, ..."""
    before, percent, last = 0, 22, 0
    while (place := -(-percent * steps // 100)) <= steps and percent <= 100:
        if place > last:
            yield place, place - last
        before, percent, last = percent, percent + max(percent - before - 3, 6), place


@dataclass
class SparseSteps:
    """Steps in L1 whose sparsity follows that of the best perturbation (Croce & Hein, 2021).

    After every 4 % of the steps, a step changes 1 / 1.5 of the values that the best perturbation changes. Where the
    best perturbation has become sparser, full steps restart from it; elsewhere the step becomes 1.5 times shorter,
    down to a tenth of the radius.
    """

    ball: Ball
    every: int
    length: Tensor
    moved: Tensor
    moved_then: Tensor
    up: bool  # round the number of values up, as AutoAttack does; two values then never become one

    @classmethod
    def begin(cls, search: Search, ball: Ball, steps: int, rho: float, density: float) -> SparseSteps:
        """Start with a step as long as the radius along this share of all values, or as sparse as the start for 0."""
        now = changed(search.points, search.center)
        size = torch.full_like(now, search.points[0].numel())
        moved = (density * size, size) if density else (now / SHRINKS, now)
        return cls(ball, max(1, int(0.04 * steps)), torch.full_like(now, ball.eps), *moved, up=not density)

    def check(self, search: Search, step: int) -> None:
        """Set sparsity and length from the best perturbation so far."""
        if not step or step % self.every:
            return
        now = changed(search.best, search.center)
        sparser = now < SPARSER * self.moved_then
        shorter = (self.length / SHRINKS).clamp(min=SHORTEST * self.ball.eps)
        self.length = torch.where(sparser, self.ball.eps, shorter)
        self.moved, self.moved_then = now / SHRINKS, now
        search.revert(sparser)

    def next(self, search: Search) -> Tensor:
        """Return the next points: a step along the signs of the largest gradient values."""
        count = self.moved.ceil() if self.up else self.moved
        step = self.length.view(-1, 1, 1, 1) * sparse_sign(search.slope, count)
        return self.ball.project(search.points + step, search.center)

    def record(self, search: Search, evaluation: Evaluation) -> None:
        """Keep no record: this rule depends on the best point alone."""


def changed(points: Tensor, center: Tensor) -> Tensor:
    """Return how many values (A,) of each point differ from its centre."""
    return (points != center).flatten(1).sum(1).to(points.dtype)


def start(center: Tensor, ball: Ball, keys: Sequence[Key], index: int, density: float) -> Tensor:
    """Return a random point of the ball for each centre; for a density of 0 in L1 a sparse one: projected noise."""
    if ball.norm != "l1" or density:
        return ball.sample(center, keys, index)
    return ball.project(center + torch.stack([noise(center, key, index) for key in keys]), center)


Pace = HalvingSteps | SparseSteps
PACES: dict[Norm, type[Pace]] = {"linf": HalvingSteps, "l2": HalvingSteps, "l1": SparseSteps}
