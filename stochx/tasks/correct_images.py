"""What the checks of an evaluation share: their result, and the images on which they attack again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from stochx.attacks import Attack, Context
from stochx.catalog import ATTACKS
from stochx.engine.judging import Judge, Verdict
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball

DRAWS = 8  # draws of a stochastic network

Verdicts = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """An indicator: its name, verdict, observation and advice."""

    name: str
    verdict: Verdicts
    text: str
    advice: str
    value: float | None = None


@dataclass(frozen=True)
class CorrectImages:
    """Correctly classified images, on which the checks run attacks."""

    model: Classifier
    x: Tensor
    y: Tensor
    keys: Sequence[str]
    ball: Ball
    seed: int
    eot: int

    def __getitem__(self, part: slice | Sequence[int]) -> CorrectImages:
        keys = self.keys[part] if isinstance(part, slice) else [self.keys[n] for n in part]
        return replace(self, x=self.x[part], y=self.y[part], keys=keys)

    def right_under(self, text: str, ball: Ball | None = None) -> Tensor:
        """Return the share of draws (N,) that are right under the attack `text`."""
        cheap = replace(self, eot=min(self.eot, DRAWS))
        return cheap.verdict_under(ATTACKS.make(text), text, DRAWS, ball).right

    def verdict_under(self, attack: Attack, name: str, draws: int, ball: Ball | None = None) -> Verdict:
        """Return the verdict of fresh draws on the attacked images; `name` seeds the attack."""
        judge = Judge(self.model, self.y, None, draws, self.seed, "checks", self.model.noise != "none")
        context = Context.judged_by(judge, self.keys, self.eot)
        with seeded(self.seed, "checks", name):
            attempt = attack(self.model, self.x, self.y, ball or self.ball, context)
        return judge.verdict(attempt.x, "judge")
