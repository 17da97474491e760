"""Layer-wise relevance propagation as a guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead, initial_relevance, scaled
from stochx.engine.seeds import Key
from stochx.guides._shares import check_shares


@dataclass(frozen=True)
class LRP:
    """Weights of features from their LRP relevance for the classes (Sun et al., 2020): w = 1 + R / max |R|.

    Relevance starts at the log-odds of every class and is propagated through the head only.
    """

    lambda_: float = -1.0  # weight of the guided loss; below 0: the head's default for this number of shots
    xi: float = -1.0  # weight of the plain loss; below 0: the head's default

    def __post_init__(self) -> None:
        check_shares(self.lambda_, self.xi)

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        return weights(head, cache)


def weights(head: FewShotHead[Any], cache: Any) -> tuple[Tensor, ...]:
    """Return weights in [0, 2]; gradients flow through them if the head is `differentiable`."""
    with torch.set_grad_enabled(head.differentiable and torch.is_grad_enabled()):
        return scaled(head, head.relevance(cache, initial_relevance(cache.outputs)))
