"""PMA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_gradient, loss_value
from stochx.engine.losses import Goal, Loss, largest_other, logit_of, margin, probability, probability_margin
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class PMA:
    """Probability margin attack: up the most probable wrong class's probability minus the label's (Xie et al., 2024).

        x <- project(x + length * ascent(gradient)),  length = eps (1 + cos(pi i / n)) in step i of a half of n steps

    Each of two passes starts at a random point. Its first step raises p(y). The rest of its first half lowers p(y), or
    raises the largest other probability in the second pass; its second half climbs their difference. Probabilities too
    small for float32 are followed by their logarithm.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=6",)  # settings that are tested

    steps: int = 100  # gradient steps per pass
    restarts: int = 1  # pairs of passes; the strongest counts for each image
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be at least 1")
        if self.eot < 0:
            raise ValueError("eot must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run = AttackState(x, y, context)
        for index in range(2 * self.restarts):
            if not run.over:
                self._pass(model, x, ball, run, index)
        return run.attempt

    def _pass(self, model: nn.Module, x: Tensor, ball: Ball, run: AttackState, index: int) -> None:
        """Run one pass; those of even `index` lower p(y) first."""
        goal, center = Goal(run.y, run.context.target), x[run.active]
        points = ball.sample(center, run.keys, index)
        for step, (loss, length) in enumerate(self.plan(FIRST[index % 2])):
            evaluation = loss_gradient(
                model, points, goal[run.active], loss, self.eot or run.context.eot, self.estimand
            )
            run.count(evaluation.forwards, evaluation.backwards)
            stays = run.leave(points, evaluation.logits, step, index)
            if run.over:
                return
            slope = evaluation.gradient
            if run.lost(stays):
                points, center, slope = points[stays], center[stays], slope[stays]
            points = ball.project(points + length * ball.eps * ball.ascent(slope), center)

        def value(points: Tensor) -> Tensor:
            run.count(1)
            return loss_value(model, points, goal[run.active], margin).loss

        run.finish(points, value, self.steps, index)

    def plan(self, first: Loss) -> Iterator[tuple[Loss, float]]:
        """Yield the loss of each step, and its length in radii; the cosine starts again in the second half."""
        half = self.steps // 2
        for step in range(half):
            yield first if step else of_label, 1 + math.cos(math.pi * step / half)
        for step in range(self.steps - half):
            yield probability_margin, 1 + math.cos(math.pi * step / (self.steps - half))


def of_label(logits: Tensor, goal: Goal) -> Tensor:
    """Return p(y)."""
    return probability(logit_of(logits, goal.y) - logits.logsumexp(1))


def of_all_others(logits: Tensor, goal: Goal) -> Tensor:
    """Return 1 - p(y)."""
    return probability(logits.scatter(1, goal.y[:, None], -torch.inf).logsumexp(1) - logits.logsumexp(1))


def of_rival(logits: Tensor, goal: Goal) -> Tensor:
    """Return p(target), or the largest probability of another class than y."""
    rival = largest_other(logits, goal.y) if goal.target is None else logit_of(logits, goal.target)
    return probability(rival - logits.logsumexp(1))


FIRST: tuple[Loss, Loss] = (of_all_others, of_rival)
