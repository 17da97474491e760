"""Transfer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks.pgd import PGD
from stochx.engine.threat import Ball
from stochx.errors import UsageError


@dataclass(frozen=True)
class Transfer:
    """Points crafted on another network, with momentum: they need no gradient of this one (Dong et al., 2018).

    The model itself is asked about the last point alone. Where this beats an attack on the model's own gradients,
    those are masked.
    """

    black_box: ClassVar[bool] = True  # follows no gradient of the network that is attacked
    needs_source: ClassVar[bool] = True  # crafts on another network
    examples: ClassVar[tuple[str, ...]] = ("steps=4",)  # settings that are tested

    steps: int = 20  # gradient steps on the source
    step: float = 0.0  # length of a step as a fraction of eps; 0 means 2.5 / steps
    momentum: float = 1.0  # share of the former direction that is kept
    loss: Literal["ce", "margin", "dlr"] = "ce"  # what is raised

    def __post_init__(self) -> None:
        self._craft()

    def _craft(self) -> PGD:
        return PGD(self.steps, self.step, random_start=False, momentum=self.momentum, loss=self.loss)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if context.source is None:
            raise UsageError("`transfer` needs a network to craft on", "give one with `--source MODEL`")
        return self._craft()(context.source, x, y, ball, replace(context, judge_any=False))
