"""Gradient times input as a guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead, scaled
from stochx.engine.seeds import Key
from stochx.guides._shares import check_shares
from stochx.guides._slopes import slopes


@dataclass(frozen=True)
class GradXInput:
    """Features weigh by x df/dx, f = sum R0 score: relevance from the gradient in place of rules."""

    lambda_: float = -1.0  # weight of the loss of the weighted features; below 0: the head's, by shot
    xi: float = -1.0  # weight of the plain loss; below 0: the head's

    def __post_init__(self) -> None:
        check_shares(self.lambda_, self.xi)

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        return scaled(head, [x * slope for x, slope in slopes(head, cache)])
