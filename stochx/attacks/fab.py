"""FAB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._hyperplane import step_to_plane
from stochx.attacks._nearest import NearestPoints
from stochx.attacks._run import AttackState, likely_classes
from stochx.engine.ascent import loss_gradient, loss_value
from stochx.engine.device import full_precision
from stochx.engine.gradients import finite, logits
from stochx.engine.losses import Goal, gap, margin
from stochx.engine.threat import DUALS, Ball, norm_of

SMALLEST = 1e-8  # length of a step to a plane that is reached already


@dataclass(frozen=True)
class FAB:
    """Fast adaptive boundary attack: look for the nearest misclassified point (Croce & Hein, ICML 2020).

        x_i <- clip((1 - a) (x_i + (1 + overshoot) d_i) + a (x + (1 + overshoot) d)),  a = |d_i| / (|d_i| + |d|) <= bias

    with d_i and d the shortest steps, within [0, 1], from x_i and from the image x to the linearised boundary at x_i. A
    misclassified x_i moves back towards x, to `back` of its distance. It counts if it lies in the ball. Each of the
    `targets` most probable wrong classes has a run with its own boundary (FAB-T); `targets=0` takes the nearest
    boundary of all classes in every step, with a gradient for each. For deterministic networks: on a stochastic one a
    single draw decides what is misclassified.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    minimal: ClassVar[bool] = True  # finds the nearest wrong point
    examples: ClassVar[tuple[str, ...]] = ("steps=5,targets=2", "steps=5,targets=0")  # settings that are tested

    steps: int = 100  # projections per run
    targets: int = 9  # target classes, with a run each; 0 takes the nearest boundary in each step
    restarts: int = 1  # runs per target; all but the first start at a random point within eps / 2
    overshoot: float = 0.05  # distance beyond the boundary, as a fraction
    bias: float = 0.1  # largest share of the step that starts at the image
    back: float = 0.9  # distance that a misclassified point keeps

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be at least 1")
        if self.targets < 0 or self.overshoot < 0:
            raise ValueError("targets and overshoot must not be negative")
        if not 0 <= self.bias <= 1 or not 0 < self.back < 1:
            raise ValueError("bias must lie in [0, 1], and back between 0 and 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run, goal = AttackState(x, y, context), Goal(y, context.target)
        nearest = NearestPoints(run, x, ball)
        for place, classes in enumerate(self._boundaries(model, x, goal)):
            for restart in range(self.restarts):
                if not run.over:
                    self._search(model, goal, classes, nearest, place * self.restarts + restart)
        return nearest.finish(model, goal)

    def _boundaries(self, model: nn.Module, x: Tensor, goal: Goal) -> Iterator[Tensor]:
        """Yield the classes (N, k) whose boundaries a run considers."""
        with full_precision():
            out = finite(logits(model, x))
        if self.targets:
            yield from likely_classes(out, goal, self.targets).T[:, :, None]
        else:
            yield likely_classes(out, goal, out.shape[1])

    def _search(self, model: nn.Module, goal: Goal, classes: Tensor, nearest: NearestPoints, index: int) -> None:
        """Project onto boundaries of `classes` (N, k), from the images or from random points; `index` is the run's."""
        run, ball = nearest.run, nearest.ball
        center = points = nearest.center[run.active]
        if index % self.restarts:
            points = replace(ball, eps=ball.eps / 2).sample(center, run.keys, index)
        for step in range(self.steps):
            with full_precision():
                normal, height = self._plane(model, points, goal[run.active], classes[run.active], ball)
                run.count(classes.shape[1], classes.shape[1])
            own, biased = (step_to_plane(start, normal, height, ball.norm) for start in (points, center))
            lengths = [norm_of(part.flatten(1), ball.norm).clamp(min=SMALLEST) for part in (own, biased)]
            share = (lengths[0] / (lengths[0] + lengths[1])).clamp(max=self.bias).view(-1, 1, 1, 1)
            reach = 1 + self.overshoot
            points = ((1 - share) * (points + reach * own) + share * (center + reach * biased)).clamp(0, 1)
            with full_precision():
                evaluation = loss_value(model, points, goal[run.active], margin)
                run.count(1)
            wrong = run.misclassified(evaluation.logits)
            stays = nearest.meet(points, evaluation.logits, step, index)
            if run.over:
                return
            points[wrong] = center[wrong] + self.back * (points[wrong] - center[wrong])
            if run.lost(stays):
                points, center = points[stays], center[stays]

    def _plane(
        self, model: nn.Module, points: Tensor, goal: Goal, classes: Tensor, ball: Ball
    ) -> tuple[Tensor, Tensor]:
        """Return normal (A, C, H, W) and height (A,) of the nearest linearised boundary at `points`."""
        count = classes.shape[1]
        rows = Goal(goal.y.repeat_interleave(count), classes.flatten())
        rise = loss_gradient(model, points.repeat_interleave(count, 0), rows, gap if goal.target is None else margin)
        gaps, slopes = rise.loss.view(-1, count), rise.gradient.view(-1, count, *points.shape[1:])
        steep = norm_of(rise.gradient.flatten(1), DUALS[ball.norm]).view_as(gaps)
        least = (gaps.abs() / steep.clamp(min=torch.finfo(gaps.dtype).tiny)).argmin(1)
        image = torch.arange(len(points), device=points.device)
        normal, value = slopes[image, least], gaps[image, least]
        return normal, (normal * points).flatten(1).sum(1) - value
