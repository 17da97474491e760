"""What APGD knows of each image on its way, and two ways to set its steps: by halving them, or by sparsity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from stochx.engine.ascent import Look
from stochx.engine.threat import Ball, Norm, sparse_sign

KEPT = 0.75  # share of the new step; the rest continues the former one
SPARSE = 0.2  # share of the values that the first steps in L1 move
SHRINKS = 1.5  # how much sparser than the best change steps are, and how much shorter they become
SPARSER = 0.95  # share of its former values below which the best change has become sparser
SHORTEST = 0.1  # of the radius
STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # L1: radii, of the ball's, each with its share of the steps

State = TypeVar("State", bound="Search | Halving | Sparsing")


def some(state: State, stays: Tensor) -> State:
    """The state of the images that stay: every tensor is (A, ...) over the images still searched."""
    if stays.all():
        return state
    parts = {part.name: getattr(state, part.name) for part in fields(state)}
    cut: dict[str, Any] = {name: part[stays] for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(state, **cut)


def stages(ball: Ball, steps: int) -> list[tuple[Ball, int]]:
    """The balls that are searched in turn, each with its steps: in L1 wider ones come first."""
    if ball.norm != "l1":
        return [(ball, steps)]
    first = [(replace(ball, eps=wider * ball.eps), int(share * steps)) for wider, share in STAGES[:-1]]
    return [stage for stage in first if stage[1]] + [(ball, steps - sum(count for _, count in first))]


@dataclass
class Search:
    """Where the search of each image is.

    The released auto-attack chooses the best point, halves steps and flags success by the last draw of a stochastic
    network alone; here all three go by the `eot` draws together.
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
    def begin(cls, center: Tensor, points: Tensor, found: Look) -> Search:
        """At these points, of which this was found."""
        best = (points.clone(), found.gradient.clone(), found.loss.clone())
        return cls(center, points, found.gradient, found.loss, found.logits, *best)

    def move(self, points: Tensor, found: Look) -> None:
        """Go to these points, of which this was found."""
        self.points, self.slope, self.value, self.logits = points, found.gradient, found.loss, found.logits
        better = self.value > self.top
        self.best[better], self.best_slope[better] = points[better], self.slope[better]
        self.top = self.top.maximum(self.value)

    def back(self, returns: Tensor) -> None:
        """Go back to the best point of the images that return (A,)."""
        wide = returns.view(-1, 1, 1, 1)
        self.points, self.slope = self.best.where(wide, self.points), self.best_slope.where(wide, self.slope)
        self.value = self.top.where(returns, self.value)


@dataclass
class Halving:
    """A step for each image that halves where it stops paying, and momentum (Croce & Hein, 2020)."""

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
    def begin(cls, search: Search, ball: Ball, steps: int, rho: float) -> Halving:
        """With steps of twice the radius."""
        none, top = torch.zeros_like(search.top), search.top.clone()
        length = torch.full_like(none, 2 * ball.eps)
        return cls(ball, dict(spans(steps)), rho, search.points, length, none, top, none.bool())

    def check(self, search: Search, step: int) -> None:
        """Halve the steps that rose too rarely or brought nothing."""
        if step not in self.due:
            return
        self.halved = (self.rises < self.rho * self.due[step]) | (~self.halved & (search.top == self.top_then))
        self.length = self.length.where(~self.halved, self.length / 2)
        self.rises, self.top_then = torch.zeros_like(self.rises), search.top
        search.back(self.halved)

    def next(self, search: Search) -> Tensor:
        """`share` of the step along the slope, the rest along the former step."""
        points, center = search.points, search.center
        steep = self.ball.project(points + self.length.view(-1, 1, 1, 1) * self.ball.ascent(search.slope), center)
        step = self.share * (steep - points) + (1 - self.share) * (points - self.before)
        return self.ball.project(points + step, center)

    def saw(self, search: Search, found: Look) -> None:
        """Count the rises."""
        self.rises = self.rises + (found.loss > search.value)
        self.before, self.share = search.points, KEPT


def spans(steps: int) -> Iterator[tuple[int, int]]:
    """The checkpoints, each with the steps since the last: ceil(p_j * steps) for p_j = 0.22, 0.41, 0.57, 0.70, ..."""
    before, percent, last = 0, 22, 0
    while (place := -(-percent * steps // 100)) <= steps and percent <= 100:
        if place > last:
            yield place, place - last
        before, percent, last = percent, percent + max(percent - before - 3, 6), place


@dataclass
class Sparsing:
    """Steps as sparse as what has paid so far, for L1 (Croce & Hein, 2021).

    Every 4 % of the steps: move 1 / 1.5 of the values that the best change moves; where that change has become
    sparser, take whole steps again from it, elsewhere steps 1.5 times shorter, down to a tenth of the radius.
    """

    ball: Ball
    every: int
    length: Tensor
    moved: Tensor
    moved_then: Tensor

    @classmethod
    def begin(cls, search: Search, ball: Ball, steps: int, rho: float) -> Sparsing:
        """With steps of the radius along a fifth of all values."""
        size = torch.full_like(search.top, search.points[0].numel())
        return cls(ball, max(1, int(0.04 * steps)), torch.full_like(size, ball.eps), SPARSE * size, size)

    def check(self, search: Search, step: int) -> None:
        """Set sparsity and length by the best change so far."""
        if not step or step % self.every:
            return
        now = (search.best != search.center).flatten(1).sum(1).to(self.moved)
        sparser = now < SPARSER * self.moved_then
        shorter = (self.length / SHRINKS).clamp(min=SHORTEST * self.ball.eps)
        self.length = torch.where(sparser, self.ball.eps, shorter)
        self.moved, self.moved_then = now / SHRINKS, now
        search.back(sparser)

    def next(self, search: Search) -> Tensor:
        """Along the signs of the strongest values of the slope."""
        step = self.length.view(-1, 1, 1, 1) * sparse_sign(search.slope, self.moved)
        return self.ball.project(search.points + step, search.center)

    def saw(self, search: Search, found: Look) -> None:
        """Nothing to note."""


Pace = Halving | Sparsing
PACES: dict[Norm, type[Pace]] = {"linf": Halving, "l2": Halving, "l1": Sparsing}
