"""Randomly permuted weights: a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.seeds import Key, generator
from stochx.guides._shares import check_shares
from stochx.guides.lrp import weights


@dataclass(frozen=True)
class Random:
    """A control: the weights of `lrp`, randomly permuted within each pair or node.

    They keep their distribution but lose their meaning: any gain they share with `lrp` is that of noise.
    """

    lambda_: float = -1.0  # weight of the guided loss; below 0: the head's default for this number of shots
    xi: float = -1.0  # weight of the plain loss; below 0: the head's default

    def __post_init__(self) -> None:
        check_shares(self.lambda_, self.xi)

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        source = generator(*keys, "random", device=cache.scores.device)
        with torch.no_grad():
            return tuple(_mixed(w, axis, source) for w, axis in zip(weights(head, cache), head.axes, strict=True))


def _mixed(w: Tensor, axis: int, source: torch.Generator) -> Tensor:
    """Permute the values from `axis` on, independently for each index of the axes before."""
    rows = w.flatten(axis)
    order = torch.rand(rows.shape, generator=source, device=w.device).argsort(-1)
    return rows.gather(-1, order).view(w.shape)
