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
    """Weights of features from x df/dx, f = sum R0 score: relevance from the gradient instead of LRP rules."""

    lambda_: float = -1.0  # weight of the guided loss; below 0: the head's default for this number of shots
    xi: float = -1.0  # weight of the plain loss; below 0: the head's default

    def __post_init__(self) -> None:
        check_shares(self.lambda_, self.xi)

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        return scaled(head, [x * slope for x, slope in slopes(head, cache)])
