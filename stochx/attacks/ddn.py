"""DDN."""

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
from stochx.engine.losses import Goal, cross_entropy
from stochx.engine.threat import Ball, norm_of
from stochx.errors import UsageError

SMALLEST = 1e-12


@dataclass(frozen=True)
class DDN:
    """Decoupled direction and norm: look for the nearest misclassified point in L2 (Rony et al., CVPR 2019).

        delta <- delta + a ascent(gradient),  delta <- radius delta / |delta|,  x' = clip(x + delta)

    The radius shrinks by `gamma` after a misclassified x' and grows elsewhere; the step a falls from 1 to 0.01. The
    authors' code rounds every point to 256 levels by default; here none is. For deterministic networks: on a stochastic
    one the mean logits of `eot` draws decide what is misclassified.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    minimal: ClassVar[bool] = True  # finds the nearest wrong point
    examples: ClassVar[tuple[str, ...]] = ("steps=8",)  # settings that are tested
    norms: ClassVar[tuple[str, ...]] = ("l2",)  # supported norms

    steps: int = 100  # gradient steps
    radius: float = 1.0  # radius of the first step
    gamma: float = 0.05  # change of the radius in a step, as a fraction
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eot < 0:
            raise ValueError("steps must be at least 1, and eot must not be negative")
        if self.radius <= 0 or not 0 < self.gamma < 1:
            raise ValueError("radius must be positive, and gamma between 0 and 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm != "l2":
            raise UsageError(f"`ddn` does not support the norm `{ball.norm}`", "use `--norm l2`, or the attack `fmn`")
        run, goal = AttackState(x, y, context), Goal(y, context.target)
        nearest, eot = NearestPoints(run, x, ball), self.eot or context.eot
        center, delta = x, torch.zeros_like(x)
        radius, farthest = torch.full_like(x[:, 0, 0, 0], self.radius), norm_of(x.maximum(1 - x).flatten(1), "l2")
        for step in range(self.steps + 1):
            with full_precision():
                evaluation = loss_gradient(model, center + delta, goal[run.active], cross_entropy, eot)
            run.count(evaluation.forwards, evaluation.backwards)
            radius = radius * torch.where(run.misclassified(evaluation.logits), 1 - self.gamma, 1 + self.gamma)
            stays = nearest.meet(center + delta, evaluation.logits, step, 0)
            if run.over:
                break
            slope, parts = evaluation.gradient, (center, delta, radius, farthest)
            if run.lost(stays):
                slope, (center, delta, radius, farthest) = slope[stays], (part[stays] for part in parts)
            radius = radius.minimum(farthest)
            delta = delta + fall(1.0, step, self.steps) * ball.ascent(slope)
            length = norm_of(delta.flatten(1), "l2").clamp(min=SMALLEST)
            delta = (center + delta * (radius / length).view(-1, 1, 1, 1)).clamp(0, 1) - center
        return nearest.finish(model, goal)
