"""FMN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._nearest import NearestPoints, fall
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_gradient
from stochx.engine.device import full_precision
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import DUALS, Ball, norm_of, project_each

FARTHER = 1 + 1e-4  # a step that ends on the boundary of a linear network would never cross it


@dataclass(frozen=True)
class FMN:
    """Fast minimum-norm attack: look for the nearest misclassified point in Linf, L2 or L1 (Pintor et al., 2021).

        delta <- project(delta + a gradient / |gradient|_2, radius),  x' = clip(x + delta)

    Until a misclassified x' is met the radius reaches as far as the linearised boundary, |delta| + |margin| /
    |gradient|*; then it shrinks by gamma after a misclassified x', to the smallest length so far at most, and grows
    elsewhere. The step a falls from `step` to a hundredth of it, gamma from `gamma` to a fiftieth. For deterministic
    networks: on a stochastic one the mean logits of `eot` draws decide what is misclassified.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    minimal: ClassVar[bool] = True  # finds the nearest wrong point
    examples: ClassVar[tuple[str, ...]] = ("steps=8",)  # settings that are tested

    steps: int = 200  # gradient steps
    step: float = 1.0  # length of the first step in L2, whatever the norm of the ball
    gamma: float = 0.05  # change of the radius in the first steps, as a fraction
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eot < 0:
            raise ValueError("steps must be at least 1, and eot must not be negative")
        if self.step <= 0 or not 0 < self.gamma < 1:
            raise ValueError("step must be positive, and gamma between 0 and 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run, goal = AttackState(x, y, context), Goal(y, context.target)
        nearest, eot = NearestPoints(run, x, ball), self.eot or context.eot
        center, points, radius = x, x, torch.full_like(x[:, 0, 0, 0], torch.inf)
        for step in range(self.steps + 1):
            with full_precision():
                evaluation = loss_gradient(model, points, goal[run.active], margin, eot)
            run.count(evaluation.forwards, evaluation.backwards)
            wrong, slope = run.misclassified(evaluation.logits), evaluation.gradient
            length, best = ball.length(points, center), nearest.distance[run.active]
            steep = norm_of(slope.flatten(1), DUALS[ball.norm]).clamp(min=torch.finfo(x.dtype).tiny)
            boundary = FARTHER * (length + evaluation.loss.abs() / steep)
            gamma = fall(self.gamma, step, self.steps, 0.02)
            radius = torch.where(
                wrong,
                ((1 - gamma) * radius).minimum(best).minimum(length),
                torch.where(best.isfinite(), (1 + gamma) * radius, boundary),
            )
            stays = nearest.meet(points, evaluation.logits, step, 0)
            if run.over:
                break
            if run.lost(stays):
                center, points, slope, radius = (part[stays] for part in (center, points, slope, radius))
            unit = slope / norm_of(slope.flatten(1), "l2").clamp(min=torch.finfo(x.dtype).tiny).view(-1, 1, 1, 1)
            points = points + fall(self.step, step, self.steps) * unit
            points = project_each(points, center, radius, ball.norm)
        return nearest.finish(model, goal)
