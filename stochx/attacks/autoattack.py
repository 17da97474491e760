"""AutoAttack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.attacks._ensemble import run_in_sequence
from stochx.attacks.apgd import APGD
from stochx.attacks.fab import FAB
from stochx.attacks.square import Square
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class AutoAttack:
    """The published standard for deterministic networks, image for image (Croce & Hein, 2020; L1: 2021).

    APGD on cross-entropy, APGD on the targeted DLR loss for nine classes, FAB for nine classes and Square, each from
    the clean images that withstood the previous ones. In L1 APGD has five restarts, then five classes. Losses,
    iterations and schedules are those of AutoAttack's version `standard`; random starts and squares are drawn
    otherwise, for each image from its own key. With fewer than four classes, where the targeted DLR loss is undefined
    and the authors' code fails, the margin loss replaces it.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=4,queries=20",)  # settings that are tested

    steps: int = 100  # steps of each run of APGD and FAB
    queries: int = 5000  # queries of Square per image, after its start

    def __post_init__(self) -> None:
        if self.steps < 1 or self.queries < 1:
            raise ValueError("steps and queries must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        restarts, targets = (5, 5) if ball.norm == "l1" else (1, 9)
        few = logits(model, x[:1]).shape[1] < 4
        loss: Literal["margin", "targeted-dlr"] = "margin" if few else "targeted-dlr"
        attacks: dict[str, Attack] = {
            "apgd-ce": APGD(self.steps, restarts=restarts, density=0),
            "apgd-t": APGD(self.steps, loss, targets, density=0),
            "fab-t": FAB(self.steps),
            "square": Square(self.queries + 1, rescale=False),
        }
        return run_in_sequence(attacks, model, x, y, ball, context)
