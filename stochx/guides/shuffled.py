"""Weights of another query: a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.seeds import Key, generator
from stochx.errors import InputError
from stochx.guides._shares import check_shares
from stochx.guides.lrp import weights


@dataclass(frozen=True)
class Shuffled:
    """A control: each query, or graph, gets the weights of `lrp` for another one of the same episode.

    They are as smooth and as sparse as explanations are, but do not concern this query.
    """

    lambda_: float = -1.0  # weight of the guided loss; below 0: the head's default for this number of shots
    xi: float = -1.0  # weight of the plain loss; below 0: the head's default

    def __post_init__(self) -> None:
        check_shares(self.lambda_, self.xi)

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            shuffled = weights(head, cache)
        count = shuffled[0].shape[1]
        if count < 2:
            raise InputError("the guide `shuffled` needs at least two queries in an episode")
        step = int(torch.randint(1, count, (), generator=generator(*keys, "shuffled")))
        return tuple(w.roll(step, 1) for w in shuffled)
