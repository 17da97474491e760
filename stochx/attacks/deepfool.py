"""DeepFool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState, likely_classes
from stochx.engine.ascent import loss_gradient, loss_value
from stochx.engine.device import full_precision
from stochx.engine.losses import Goal, gap, margin
from stochx.engine.threat import DUALS, Ball, norm_of
from stochx.errors import UsageError

TINY, NUDGE = 1e-12, 1e-5  # NUDGE carries a point on the boundary across it


@dataclass(frozen=True)
class DeepFool:
    """Step across the nearest decision boundary of the linearised network (Moosavi-Dezfooli et al., 2016).

        k = argmin |z_k - z_y| / ||grad(z_k - z_y)||*,  x <- x + that length along ascent(grad(z_k - z_y))

    until the class changes; ||.||* is the dual norm. A point outside the ball is projected into it. On a stochastic
    network the search stops at one lucky draw: use `pgd` or `apgd` with `eot` there. It depends on small differences
    between logits, so it always runs in full precision.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")  # supported norms

    steps: int = 50  # maximum number of linearised steps
    overshoot: float = 0.02  # distance beyond the boundary, as a fraction
    candidates: int = 10  # most probable wrong classes to consider

    def __post_init__(self) -> None:
        if self.steps < 1 or self.candidates < 1:
            raise ValueError("steps and candidates must be at least 1")
        if self.overshoot < 0:
            raise ValueError("overshoot must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm not in self.norms:
            raise UsageError(f"`deepfool` does not support the norm `{ball.norm}`", "use `--norm linf` or `l2`")
        run, goal = AttackState(x, y, context), Goal(y, context.target)

        def value(points: Tensor) -> Tensor:
            return loss_value(model, points, goal, margin).loss

        classes = likely_classes(loss_value(model, x, goal, margin).logits, goal, self.candidates)
        way, count, rise = torch.zeros_like(x), classes.shape[1], gap if goal.target is None else margin
        points, walks, steps = x.clone(), torch.arange(len(x), device=x.device), torch.zeros_like(y)
        run.count(1)
        for step in range(self.steps + 1):
            with full_precision():
                margins = loss_value(model, points[walks], goal[walks], margin)
            steps[walks] = step
            run.forwards[walks] += 1
            walks = walks[margins.loss <= 0]
            if step == self.steps or not len(walks):
                break
            rows = Goal(y[walks].repeat_interleave(count), classes[walks].flatten())
            with full_precision():
                evaluation = loss_gradient(model, points[walks].repeat_interleave(count, 0), rows, rise)
            run.forwards[walks] += count
            run.backwards[walks] += count
            way[walks] += _shortest(evaluation.loss.view(-1, count), evaluation.gradient, ball)
            points[walks] = (x[walks] + (1 + self.overshoot) * way[walks]).clamp(0, 1)
        run.finish(ball.project(points, x), value, steps, 0)
        return run.attempt


def _shortest(gaps: Tensor, slopes: Tensor, ball: Ball) -> Tensor:
    """Return the step (A, C, H, W) to the nearest boundary, from gaps (A, k) and their gradients (A * k, C, H, W)."""
    steep = norm_of(slopes.flatten(1), DUALS[ball.norm]).view_as(gaps)
    lengths = gaps.abs() / steep.clamp(min=TINY)
    nearest = lengths.argmin(1, keepdim=True)
    slope = slopes.view(*gaps.shape, *slopes.shape[1:])[torch.arange(len(gaps), device=gaps.device), nearest[:, 0]]
    return (lengths.gather(1, nearest) + NUDGE).view(-1, 1, 1, 1) * ball.ascent(slope)
