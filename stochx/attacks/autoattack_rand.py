"""AutoAttack's version for stochastic networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks.rand import Rand
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class AutoAttackRand:
    """AutoAttack's version `rand` for stochastic networks, judged by fresh draws (Croce & Hein, 2020).

    APGD on cross-entropy and on the DLR loss, with 20 draws per gradient. The authors' code takes a point for
    adversarial, and drops its image, if a single draw is wrong: at a radius of 0, images that a draw classifies
    correctly with probability p are left with p^3. Here best points and steps follow the mean of the draws, both
    attacks run on every image, and fresh draws choose between the two. `rand` is the same, with a number of draws and
    an estimand of one's own.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=2",)  # settings that are tested

    steps: int = 100  # gradient steps of each APGD

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        return Rand(self.steps, eot=20)(model, x, y, ball, context)
