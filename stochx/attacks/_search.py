"""The state of an APGD search, and its two step rules: halving, and sparsity for L1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from stochx.engine.ascent import Evaluation
from stochx.engine.threat import Ball, Norm, sparse_sign

KEPT = 0.75  # share of the new step; the rest continues the former one
SPARSE = 0.2  # share of the values that the first L1 steps change
SHRINKS = 1.5  # factor by which steps are sparser than the best perturbation, and by which they shorten
SPARSER = 0.95  # the best perturbation counts as sparser below this share of its former non-zero values
SHORTEST = 0.1  # shortest step, as a share of the radius
STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: radii as multiples of eps, each with its share of the steps

State = TypeVar("State", bound="Search | HalvingSteps | SparseSteps")


def keep_active(state: State, stays: Tensor) -> State:
    """Return the state of the images that stay active; every tensor is (A, ...) over the active images."""
    if stays.all():
        return state
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
    value: Tensor
    logits: Tensor
    best: Tensor
    best_slope: Tensor
    top: Tensor

    @classmethod
    def begin(cls, center: Tensor, points: Tensor, evaluation: Evaluation) -> Search:
        """Return the search that starts at `points`."""
        best = (points.clone(), evaluation.gradient.clone(), evaluation.loss.clone())
        return cls(center, points, evaluation.gradient, evaluation.loss, evaluation.logits, *best)

    def move(self, points: Tensor, evaluation: Evaluation) -> None:
        """Move to `points` and update the best ones."""
        self.points, self.slope, self.value, self.logits = (
            points,
            evaluation.gradient,
            evaluation.loss,
            evaluation.logits,
        )
        better = self.value > self.top
        self.best[better], self.best_slope[better] = points[better], self.slope[better]
        self.top = self.top.maximum(self.value)

    def revert(self, returns: Tensor) -> None:
        """Return to the best point, for the images selected by `returns` (A,)."""
        wide = returns.view(-1, 1, 1, 1)
        self.points, self.slope = self.best.where(wide, self.points), self.best_slope.where(wide, self.slope)
        self.value = self.top.where(returns, self.value)


@dataclass
class HalvingSteps:
    """Momentum, and one step length per image, halved when progress stalls (Croce & Hein, 2020)."""

    ball: Ball
    due: dict[int, int]
    rho: float
    before: Tensor
    length: Tensor
    rises: Tensor
    top_then: Tensor
    halved: Tensor
    share: float = 1.0

    @classmethod
    def begin(cls, search: Search, ball: Ball, steps: int, rho: float) -> HalvingSteps:
        """Start with a step of twice the radius."""
        none, top = torch.zeros_like(search.top), search.top.clone()
        length = torch.full_like(none, 2 * ball.eps)
        return cls(ball, dict(spans(steps)), rho, search.points, length, none, top, none.bool())

    def check(self, search: Search, step: int) -> None:
        """Halve the steps of images whose loss rose too rarely or whose best loss did not improve."""
        if step not in self.due:
            return
        self.halved = (self.rises < self.rho * self.due[step]) | (~self.halved & (search.top == self.top_then))
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
        self.rises = self.rises + (evaluation.loss > search.value)
        self.before, self.share = search.points, KEPT


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

    @classmethod
    def begin(cls, search: Search, ball: Ball, steps: int, rho: float) -> SparseSteps:
        """Start with a step as long as the radius, along a fifth of all values."""
        size = torch.full_like(search.top, search.points[0].numel())
        return cls(ball, max(1, int(0.04 * steps)), torch.full_like(size, ball.eps), SPARSE * size, size)

    def check(self, search: Search, step: int) -> None:
        """Set sparsity and length from the best perturbation so far."""
        if not step or step % self.every:
            return
        now = (search.best != search.center).flatten(1).sum(1).to(self.moved)
        sparser = now < SPARSER * self.moved_then
        shorter = (self.length / SHRINKS).clamp(min=SHORTEST * self.ball.eps)
        self.length = torch.where(sparser, self.ball.eps, shorter)
        self.moved, self.moved_then = now / SHRINKS, now
        search.revert(sparser)

    def next(self, search: Search) -> Tensor:
        """Return the next points: a step along the signs of the largest gradient values."""
        step = self.length.view(-1, 1, 1, 1) * sparse_sign(search.slope, self.moved)
        return self.ball.project(search.points + step, search.center)

    def record(self, search: Search, evaluation: Evaluation) -> None:
        """Keep no record: this rule depends on the best point alone."""


Pace = HalvingSteps | SparseSteps
PACES: dict[Norm, type[Pace]] = {"linf": HalvingSteps, "l2": HalvingSteps, "l1": SparseSteps}
