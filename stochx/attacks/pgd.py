"""PGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState, goal_of
from stochx.engine.ascent import loss_gradient, loss_value
from stochx.engine.losses import LOSSES
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent: steepest ascent on the loss, projected into the ball (Madry et al., 2018).

        x <- project(x + step * ascent(gradient of the loss)),  from a random point of the ball

    On a stochastic network each step follows the mean gradient of `eot` draws (Athalye et al., 2018); with a single
    draw the attack measures noise, not robustness.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=5,restarts=2",)  # settings that are tested

    steps: int = 40  # gradient steps
    step: float = 0.0  # step length as a fraction of eps; 0 means 2.5 / steps
    restarts: int = 1  # random restarts; the strongest counts for each image
    random_start: bool = True  # start from a random point of the ball, not from the image
    momentum: float = 0.0  # momentum of the gradient (MI-FGSM); 0 disables it
    loss: Literal["ce", "margin", "dlr", "pm", "kl"] = "ce"  # loss to maximise
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be at least 1")
        if self.step < 0 or self.eot < 0:
            raise ValueError("step and eot must not be negative")
        if not 0 <= self.momentum <= 1:
            raise ValueError("momentum must lie in [0, 1]")
        if self.loss == "kl" and not self.random_start:
            raise ValueError("the gradient of `kl` vanishes at the image; it needs random_start=true")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run, eot = AttackState(x, y, context), self.eot or context.eot
        length = ball.eps * (self.step or 2.5 / self.steps)
        goal, loss = goal_of(model, x, y, context, self.loss, eot), LOSSES[self.loss]

        def value(points: Tensor) -> Tensor:
            if self.restarts == 1:
                return points.new_zeros(len(points))  # nothing to compare with
            run.count(1)
            return loss_value(model, points, goal[run.active], loss).loss

        for restart in range(self.restarts):
            if run.over:
                break
            center = x[run.active]
            points = ball.sample(center, run.keys, restart) if self.random_start else center
            former = torch.zeros_like(points)
            for step in range(self.steps):
                evaluation = loss_gradient(model, points, goal[run.active], loss, eot, self.estimand)
                run.count(evaluation.forwards, evaluation.backwards)
                stays = run.leave(points, evaluation.logits, step, restart)
                if run.over:
                    break
                slope = evaluation.gradient
                if run.lost(stays):
                    points, former, center, slope = (part[stays] for part in (points, former, center, slope))
                if self.momentum:
                    slope = former = self.momentum * former + unit_mean(slope)
                points = ball.project(points + length * ball.ascent(slope), center)
            run.finish(points, value, self.steps, restart)
        return run.attempt


def unit_mean(gradient: Tensor) -> Tensor:
    """Scale gradients (N, C, H, W) to a mean absolute value of 1."""
    mean = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / mean.clamp(min=torch.finfo(gradient.dtype).tiny)
