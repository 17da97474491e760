"""Random search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_value
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class RandomSearch:
    """Random points of the ball: the baseline that every attack must beat.

    Where it beats attacks that follow gradients, those gradients are useless.
    """

    black_box: ClassVar[bool] = True  # uses no gradient of the attacked network
    examples: ClassVar[tuple[str, ...]] = ("tries=4",)  # settings that are tested

    tries: int = 10  # random points per image

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError("tries must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run, goal = AttackState(x, y, context), Goal(y, context.target)

        def value(points: Tensor) -> Tensor:
            return loss_value(model, points, goal[run.active], margin).loss

        for index in range(self.tries):
            if run.over:
                break
            points = ball.sample(x[run.active], run.keys, index)
            run.count(1)
            run.finish(points, value, 0, index)
        return run.attempt
