"""The standard ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.attacks._ensemble import one_after_the_other
from stochx.attacks.apgd import APGD
from stochx.attacks.deepfool import DeepFool
from stochx.attacks.square import Square
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball
from stochx.errors import UsageError


@dataclass(frozen=True)
class Standard:
    """Four attacks that fail differently, after AutoAttack (Croce & Hein, 2020); for deterministic networks.

    APGD on the cross entropy, APGD on the DLR loss of nine target classes, DeepFool, Square, each on the survivors
    of those before. DeepFool stands in the place of FAB, so counts are close to AutoAttack's and not the same. Below
    four classes there is no targeted DLR loss: the margin takes its place.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=4,queries=20",)  # settings that are tested
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")  # of the balls that it searches

    steps: int = 100  # gradient steps of each APGD
    queries: int = 5000  # queries of Square

    def __post_init__(self) -> None:
        if self.steps < 1 or self.queries < 1:
            raise ValueError("steps and queries must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm == "l1":
            raise UsageError("`standard` has no DeepFool and no Square in `l1`", "use `--norm linf` or `l2`, or `rand`")
        classes = logits(model, x[:1]).shape[1]
        attacks: dict[str, Attack] = {
            "apgd-ce": APGD(self.steps),
            "apgd-t": APGD(self.steps, "targeted-dlr" if classes >= 4 else "margin"),
            "deepfool": DeepFool(),
            "square": Square(self.queries),
        }
        return one_after_the_other(attacks, model, x, y, ball, context)
