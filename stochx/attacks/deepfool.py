"""DeepFool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_gradient, loss_value
from stochx.engine.device import full_precision
from stochx.engine.losses import Goal, gap, margin
from stochx.engine.threat import Ball, Norm, norm_of
from stochx.errors import UsageError

DUALS: dict[Norm, Norm] = {"linf": "l1", "l2": "l2"}
TINY, NUDGE = 1e-12, 1e-5  # a point on the boundary moves by the nudge


@dataclass(frozen=True)
class DeepFool:
    """The shortest way over the nearest boundary, as if the network were linear (Moosavi-Dezfooli et al., 2016).

        k = argmin |z_k - z_y| / ||grad(z_k - z_y)||*,  x <- x + that length along ascent(grad(z_k - z_y))

    until the class changes; ||.||* is the dual norm. What ends outside the ball is projected into it. On a
    stochastic network the search ends at one lucky draw: there use `pgd` or `apgd` with `eot`. The way to a
    boundary is made of small differences of logits: it is walked in full precision always.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")  # of the balls that it searches

    steps: int = 50  # linear steps at most
    overshoot: float = 0.02  # how much farther than the boundary, as a fraction
    candidates: int = 10  # most probable wrong classes that are looked at

    def __post_init__(self) -> None:
        if self.steps < 1 or self.candidates < 1:
            raise ValueError("steps and candidates must be at least 1")
        if self.overshoot < 0:
            raise ValueError("overshoot must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm not in DUALS:
            raise UsageError(f"`deepfool` measures no lengths in `{ball.norm}`", "use `--norm linf` or `l2`")
        run, goal = AttackState(x, y, context), Goal(y, context.target)

        def value(points: Tensor) -> Tensor:
            return loss_value(model, points, goal, margin).loss

        classes = _candidates(loss_value(model, x, goal, margin).logits, goal, self.candidates)
        way, count, rise = torch.zeros_like(x), classes.shape[1], gap if goal.target is None else margin
        points, walks, taken = x.clone(), torch.arange(len(x), device=x.device), torch.zeros_like(y)
        run.count(1)
        for step in range(self.steps + 1):
            with full_precision():
                said = loss_value(model, points[walks], goal[walks], margin)
            taken[walks] = step
            run.forwards[walks] += 1
            walks = walks[said.loss <= 0]
            if step == self.steps or not len(walks):
                break
            rows = Goal(y[walks].repeat_interleave(count), classes[walks].flatten())
            with full_precision():
                found = loss_gradient(model, points[walks].repeat_interleave(count, 0), rows, rise)
            run.forwards[walks] += count
            way[walks] += _shortest(found.loss.view(-1, count), found.gradient, ball)
            points[walks] = (x[walks] + (1 + self.overshoot) * way[walks]).clamp(0, 1)
        run.finish(ball.project(points, x), value, taken, 0)
        return run.attempt


def _candidates(logits: Tensor, goal: Goal, count: int) -> Tensor:
    """The classes (N, k) whose boundaries are looked at."""
    if goal.target is not None:
        return goal.target[:, None]
    others = logits.scatter(1, goal.y[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def _shortest(gaps: Tensor, slopes: Tensor, ball: Ball) -> Tensor:
    """The step (A, C, H, W) to the nearest of k boundaries, from gaps (A, k) and their slopes (A * k, C, H, W)."""
    steep = norm_of(slopes.flatten(1), DUALS[ball.norm]).view_as(gaps)
    lengths = gaps.abs() / steep.clamp(min=TINY)
    nearest = lengths.argmin(1, keepdim=True)
    slope = slopes.view(*gaps.shape, *slopes.shape[1:])[torch.arange(len(gaps), device=gaps.device), nearest[:, 0]]
    return (lengths.gather(1, nearest) + NUDGE).view(-1, 1, 1, 1) * ball.ascent(slope)
