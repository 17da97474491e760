"""Auto-PGD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import Run
from stochx.engine.ascent import Look, glance, look
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.threat import Ball
from stochx.errors import UsageError

KEPT = 0.75  # share of the new step; the rest continues the former one


@dataclass(frozen=True)
class APGD:
    """Auto-PGD: momentum, and a step for each image that halves where it stops paying (Croce & Hein, 2020).

        z  <- project(x + length * ascent(gradient))
        x' <- project(x + 0.75 (z - x) + 0.25 (x - x before)),  length = 2 eps at first

    At each checkpoint the length halves, and the search goes back to its best point, for an image whose loss rose in
    fewer than `rho` of the steps since the last one, or whose best loss and length both stayed. `targeted-dlr` runs
    once for each of the `targets` most probable wrong classes. On a stochastic network every loss is the mean of
    `eot` draws.
    """

    steps: int = 100  # gradient steps
    loss: Literal["ce", "margin", "dlr", "targeted-dlr"] = "ce"  # what is raised
    targets: int = 9  # wrong classes that targeted-dlr tries
    restarts: int = 1  # random starts; the worst one of each image counts
    rho: float = 0.75  # share of rising steps below which a step is too long
    eot: int = 1  # draws of a stochastic network that each look averages
    estimand: Literal["mean", "vote"] = "mean"  # the loss of single draws, or of their mean probabilities

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.eot < 1 or self.targets < 1:
            raise ValueError("steps, restarts, targets and eot must be at least 1")
        if not 0 < self.rho <= 1:
            raise ValueError("rho must lie in (0, 1]")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm == "l1":
            raise UsageError("`apgd` has no steps in `l1`", "use `--norm linf` or `l2`, or `--attack pgd`")
        run, index = Run(x, y, context), 0
        for goal in self._goals(model, x, y, context):
            for _ in range(self.restarts):
                if not run.over:
                    self._restart(model, x, goal, ball, run, index)
                index += 1
        return run.attempt

    def _goals(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Iterator[Goal]:
        """One, or one for each class that is aimed at; success stays any wrong class unless the context names one."""
        if self.loss != "targeted-dlr" or context.target is not None:
            yield Goal(y, context.target)
            return
        said = glance(model, x, Goal(y), LOSSES["margin"], self.eot).logits
        others = said.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]
        for target in others[:, : self.targets].T:
            yield Goal(y, target)

    def _restart(self, model: nn.Module, x: Tensor, goal: Goal, ball: Ball, run: Run, index: int) -> None:
        """One search from a random point."""
        loss = LOSSES[self.loss.removeprefix("targeted-")]

        def climb(points: Tensor) -> Look:
            found = look(model, points, goal[run.active], loss, self.eot, self.estimand)
            run.count(found.forwards)
            return found

        points = ball.sample(x[run.active], run.keys, index)
        search = _Search.begin(x[run.active], points, climb(points), 2 * ball.eps)
        due = dict(spans(self.steps))
        for step in range(self.steps + 1):
            search = search.some(run.leave(search.points, search.logits, step, index))
            if run.over:
                return
            if step in due:
                search.check(self.rho * due[step])
            if step < self.steps:
                points = search.next(ball, KEPT if step else 1.0)
                search.move(points, climb(points))
        run.finish(search.best, lambda _: search.top, self.steps, index)


def spans(steps: int) -> Iterator[tuple[int, int]]:
    """The checkpoints, each with the steps since the last: ceil(p_j * steps) for p_j = 0.22, 0.41, 0.57, 0.70, ..."""
    before, percent, last = 0, 22, 0
    while (place := -(-percent * steps // 100)) <= steps and percent <= 100:
        if place > last:
            yield place, place - last
        before, percent, last = percent, percent + max(percent - before - 3, 6), place


@dataclass
class _Search:
    """Where the search of each image is; every field is (A, ...) over the images still searched.

    The released auto-attack chooses the best point, halves steps and flags success by the last draw of a stochastic
    network alone; here all three go by the `eot` draws together.
    """

    center: Tensor
    points: Tensor
    before: Tensor
    slope: Tensor
    value: Tensor
    logits: Tensor
    best: Tensor
    best_slope: Tensor
    top: Tensor
    length: Tensor
    rises: Tensor
    top_then: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, center: Tensor, points: Tensor, found: Look, length: float) -> _Search:
        """At random points, with steps of this length."""
        value, slope = found.loss, found.gradient
        return cls(
            center=center,
            points=points,
            before=points,
            slope=slope,
            value=value,
            logits=found.logits,
            best=points.clone(),
            best_slope=slope.clone(),
            top=value.clone(),
            length=torch.full_like(value, length),
            rises=torch.zeros_like(value),
            top_then=value.clone(),
            halved=torch.zeros_like(value, dtype=torch.bool),
        )

    def some(self, stays: Tensor) -> _Search:
        """The search of the images that stay."""
        return self if stays.all() else _Search(*(getattr(self, part.name)[stays] for part in fields(self)))

    def next(self, ball: Ball, share: float) -> Tensor:
        """The next points: `share` of the step along the slope, the rest along the former step."""
        steep = ball.project(self.points + self.length.view(-1, 1, 1, 1) * ball.ascent(self.slope), self.center)
        step = share * (steep - self.points) + (1 - share) * (self.points - self.before)
        return ball.project(self.points + step, self.center)

    def move(self, points: Tensor, found: Look) -> None:
        """Go to these points, of which this was found."""
        self.rises += found.loss > self.value
        self.before, self.points, self.slope = self.points, points, found.gradient
        self.value, self.logits = found.loss, found.logits
        better = self.value > self.top
        self.best[better], self.best_slope[better] = points[better], self.slope[better]
        self.top = self.top.maximum(self.value)

    def check(self, enough: float) -> None:
        """Halve the steps that rose too rarely or brought nothing, and go back to the best points."""
        self.halved = (self.rises < enough) | (~self.halved & (self.top == self.top_then))
        back = self.halved.view(-1, 1, 1, 1)
        self.length = self.length.where(~self.halved, self.length / 2)
        self.points = self.best.where(back, self.points)
        self.slope = self.best_slope.where(back, self.slope)
        self.value = self.top.where(self.halved, self.value)
        self.rises, self.top_then = torch.zeros_like(self.rises), self.top
