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
    """Adversarial examples crafted on another network with momentum (Dong et al., 2018).

    The attacked network judges the last point alone, and its gradients are never used. Where this beats an attack on
    those gradients, they are masked.
    """

    black_box: ClassVar[bool] = True  # uses no gradient of the attacked network
    needs_source: ClassVar[bool] = True  # crafts on another network
    examples: ClassVar[tuple[str, ...]] = ("steps=4",)  # settings that are tested

    steps: int = 20  # gradient steps on the source network
    step: float = 0.0  # step length as a fraction of eps; 0 means 2.5 / steps
    momentum: float = 1.0  # momentum of the gradient; 0 disables it
    loss: Literal["ce", "margin", "dlr"] = "ce"  # loss to maximise

    def __post_init__(self) -> None:
        self._craft()

    def _craft(self) -> PGD:
        return PGD(self.steps, self.step, random_start=False, momentum=self.momentum, loss=self.loss)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if context.source is None:
            raise UsageError(
                "`transfer` needs a network to craft on", "name one with `--source MODEL`, in Python with `source=`"
            )
        # `context.eot` is what the attacked network needs; a source without noise would repeat the same pass.
        return self._craft()(context.source, x, y, ball, replace(context, judge_any=False, eot=1))
