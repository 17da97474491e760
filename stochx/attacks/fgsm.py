"""FGSM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.engine.ascent import loss_gradient
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class FGSM:
    """Fast gradient sign method: one step of full length (Goodfellow et al., 2015).

    x + eps * ascent(gradient of the loss),  projected
    """

    single_step: ClassVar[bool] = True  # one step of full length: the baseline that every iterated attack must beat

    loss: Literal["ce", "margin", "dlr"] = "ce"  # loss to maximise
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if self.eot < 0:
            raise ValueError("eot must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        goal, eot = Goal(y, context.target), self.eot or context.eot
        evaluation = loss_gradient(model, x, goal, LOSSES[self.loss], eot, self.estimand)
        once = torch.ones_like(y)
        adv = ball.project(x + ball.eps * ball.ascent(evaluation.gradient), x)
        return Attempt(adv, once, 0 * once, once * evaluation.forwards, backwards=once * evaluation.backwards)
