"""The standard ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.attacks._ensemble import run_in_sequence
from stochx.attacks.apgd import APGD
from stochx.attacks.deepfool import DeepFool
from stochx.attacks.square import Square
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball
from stochx.errors import UsageError


@dataclass(frozen=True)
class Standard:
    """Four complementary attacks after AutoAttack (Croce & Hein, 2020), for deterministic networks.

    APGD on cross-entropy, APGD on the targeted DLR loss for nine classes, DeepFool and Square, each on the survivors of
    the previous ones. A faster relative of `autoattack`: DeepFool replaces FAB, and the schedule of Square's sizes is
    stretched over its queries. Results are close to AutoAttack's but not identical: publish those of `autoattack`. With
    fewer than four classes the margin loss replaces targeted DLR.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=4,queries=20",)  # settings that are tested
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")  # supported norms

    steps: int = 100  # gradient steps of each APGD
    queries: int = 5000  # queries of Square per image

    def __post_init__(self) -> None:
        if self.steps < 1 or self.queries < 1:
            raise ValueError("steps and queries must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm == "l1":
            raise UsageError(
                "`standard` does not support the norm `l1`, as DeepFool does not",
                "use `--norm linf` or `--norm l2`, or the attack `autoattack`",
            )
        classes = logits(model, x[:1]).shape[1]
        attacks: dict[str, Attack] = {
            "apgd-ce": APGD(self.steps),
            "apgd-t": APGD(self.steps, "targeted-dlr" if classes >= 4 else "margin"),
            "deepfool": DeepFool(),
            "square": Square(self.queries),
        }
        return run_in_sequence(attacks, model, x, y, ball, context)
