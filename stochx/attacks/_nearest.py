"""The nearest misclassified point of each image, which attacks of minimal norm look for."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_value
from stochx.engine.device import full_precision
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import Ball


class NearestPoints:
    """The nearest misclassified point of each image so far, in the ball or not, beside the state of the attack."""

    def __init__(self, run: AttackState, x: Tensor, ball: Ball) -> None:
        self.run, self.center, self.ball = run, x, ball
        self.points, self.distance = x.clone(), torch.full_like(x[:, 0, 0, 0], torch.inf)
        self._last = x.clone()
        self._steps = torch.zeros_like(run.y)

    def meet(self, points: Tensor, logits: Tensor, step: int, restart: int) -> Tensor:
        """Keep those of `points` (A, C, H, W) that are misclassified and nearer; return a mask (A,) of who stays.

        Images that are misclassified in the ball leave.
        """
        active, center = self.run.active, self.center[self.run.active]
        length = self.ball.length(points, center)
        nearer = self.run.misclassified(logits) & (length < self.distance[active])
        images = active[nearer]
        self.points[images], self.distance[images] = points[nearer], length[nearer]
        self._steps[images] = step
        self._last[active] = points
        return self.run.leave(points, logits, step, restart, self.ball.holds(points, center))

    def finish(self, model: nn.Module, goal: Goal) -> Attempt:
        """End the attack: the nearest points, or the last ones where none is misclassified, go into the ball."""

        def value(points: Tensor) -> Tensor:
            with full_precision():
                return loss_value(model, points, goal[self.run.active], margin).loss

        active = self.run.active
        best = self.points.where(self.distance.isfinite().view(-1, 1, 1, 1), self._last)
        self.run.finish(self.ball.project(best, self.center)[active], value, self._steps[active], 0)
        return replace(self.run.attempt, nearest=self.points)


def fall(start: float, step: int, steps: int, share: float = 0.01) -> float:
    """Return the value at `step` of a half cosine from `start` to `share` of it at the last of `steps`."""
    return start * (share + (1 - share) * (1 + math.cos(math.pi * step / steps)) / 2)
