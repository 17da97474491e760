"""Prototypical networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from stochx.heads._vectors import VectorHead


@dataclass(frozen=True)
class Prototypical:
    """Squared distance to the mean vector p of each class (Snell et al., 2017): score = -|q - p|^2.

    Relevance starts at 2 q p, the only term that both differs between classes and depends on the query.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "embedding=flat")  # settings that are tested
    untrained: ClassVar[bool] = True  # works without training

    embedding: Literal["pooled", "mean", "flat"] = "pooled"  # vector: the backbone's own, mean of positions, or all

    def __call__(self, shape: tuple[int, int, int], way: int) -> VectorHead:
        return _Prototypical(shape, self.embedding)


class _Prototypical(VectorHead):
    by_means = True

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        p = support.mean(2)
        lengths = query.square().sum(2)[:, :, None] + p.square().sum(2)[:, None]
        return 2 * query @ p.mT - lengths

    def products(self, support: Tensor, query: Tensor, r0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, 2 * support.mean(2), r0
