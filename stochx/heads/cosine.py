"""Cosine similarity to class means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.heads._unit import unit
from stochx.heads._vectors import Embedding, VectorHead


@dataclass(frozen=True)
class Cosine:
    """Scaled cosine to the mean vector of each class, Meta-Baseline (Chen et al., 2021): score = tau cos(q, p).

    tau is learned. Relevance is distributed in proportion to the products of the two unit vectors.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "embedding=flat")  # settings that are tested
    untrained: ClassVar[bool] = True  # works without training

    scale: float = 10.0  # initial value of tau
    embedding: Literal["pooled", "mean", "flat"] = "pooled"  # vector: the backbone's own, mean of positions, or all

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError("scale must be positive")

    def __call__(self, shape: tuple[int, int, int], way: int) -> VectorHead:
        return _Cosine(shape, self.embedding, self.scale)


class _Cosine(VectorHead):
    by_means = True

    def __init__(self, shape: tuple[int, int, int], embedding: Embedding, scale: float) -> None:
        super().__init__(shape, embedding)
        self.scale = nn.Parameter(torch.tensor(scale))

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        return self.scale * unit(query, 2) @ unit(support.mean(2), 2).mT

    def products(self, support: Tensor, query: Tensor, r0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return unit(query, 2), unit(support.mean(2), 2), r0
