"""MultiTargeted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks.apgd import APGD
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class MultiTargeted:
    """One search for each wrong class, up its logit minus the label's; the worst counts (Gowal et al., 2019).

    Where the logits are linear in the ball, each of these losses has one maximum, so that the attack is optimal; the
    largest of them, which an untargeted attack climbs, may have several. The search is APGD's, the classes come in the
    order of their probability. This is `apgd:loss=targeted-gap` over all classes.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=4", "steps=4,targets=1,restarts=2")  # settings that are tested

    steps: int = 100  # gradient steps per class
    targets: int = 0  # most probable wrong classes to aim at; 0 means all
    restarts: int = 1  # random restarts per class; the strongest counts for each image
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be at least 1")
        if self.eot < 0:
            raise ValueError("eot must not be negative")
        if self.targets < 0:
            raise ValueError("targets must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        targets = self.targets or logits(model, x[:1]).shape[1]
        search = APGD(self.steps, "targeted-gap", targets, restarts=self.restarts, eot=self.eot, estimand=self.estimand)
        return search(model, x, y, ball, context)
