"""The ensemble for stochastic networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.attacks._ensemble import run_in_sequence
from stochx.attacks.apgd import APGD
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class Rand:
    """APGD on cross-entropy and on the DLR loss, each over many draws, for stochastic networks.

    AutoAttack's `rand` declares success on one lucky draw and drops the image; here both attacks run on every image,
    and fresh draws choose between the two. `autoattack-rand` has its 20 draws; here their number and estimand are free.
    With fewer classes than DLR needs, the margin loss replaces it.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=4,eot=2",)  # settings that are tested

    steps: int = 100  # gradient steps of each APGD
    eot: int = 20  # draws averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eot < 0:
            raise ValueError("steps must be at least 1, and eot must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        needed = 3 if context.target is None else 4
        dlr: Literal["dlr", "margin"] = "dlr" if logits(model, x[:1]).shape[1] >= needed else "margin"
        attacks: dict[str, Attack] = {
            "apgd-ce": APGD(self.steps, "ce", eot=self.eot, estimand=self.estimand),
            "apgd-dlr": APGD(self.steps, dlr, eot=self.eot, estimand=self.estimand),
        }
        return run_in_sequence(attacks, model, x, y, ball, context)
