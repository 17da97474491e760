"""MALT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks.apgd import APGD
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class MALT:
    """APGD on targeted DLR, for the classes whose linearised boundaries are nearest (Melamed et al., 2024).

    A class l is as near as (z_y - z_l) / |gradient of z_y - z_l|* at the image. The `candidates` most probable wrong
    classes are put in this order, with a gradient each, and the first `targets` of them are attacked in turn. This is
    `apgd:loss=targeted-dlr,order=malt`. With fewer than four classes the gap of logits replaces DLR.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=4", "steps=4,targets=2,candidates=3")  # settings that are tested

    steps: int = 100  # gradient steps per class
    targets: int = 9  # nearest classes to aim at
    candidates: int = 100  # most probable wrong classes that are put in order
    restarts: int = 1  # random restarts per class; the strongest counts for each image
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if min(self.steps, self.targets, self.candidates, self.restarts) < 1:
            raise ValueError("steps, targets, candidates and restarts must be at least 1")
        if self.eot < 0:
            raise ValueError("eot must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        loss: Literal["targeted-dlr", "targeted-gap"] = (
            "targeted-dlr" if logits(model, x[:1]).shape[1] >= 4 else "targeted-gap"
        )
        search = APGD(
            self.steps, loss, self.targets, "malt", self.candidates, self.restarts, eot=self.eot, estimand=self.estimand
        )
        return search(model, x, y, ball, context)
