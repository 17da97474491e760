"""Matching networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.fewshot.head import HeadCache
from stochx.heads._unit import unit
from stochx.heads._vectors import Embedding, VectorHead


@dataclass(frozen=True)
class Matching:
    """Attention over all support images, without context (Vinyals et al., 2016): score = log sum_k a_k over a class.

    a is the softmax of tau cos(q, s_k). Each class distributes its relevance over its images by their attention.
    """

    untrained: ClassVar[bool] = True  # works without training

    scale: float = 10.0  # inverse temperature tau of the attention
    embedding: Literal["pooled", "mean", "flat"] = "pooled"  # vector: the backbone's own, mean of positions, or all

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError("scale must be positive")

    def __call__(self, shape: tuple[int, int, int], way: int) -> VectorHead:
        return _Matching(shape, self.embedding, self.scale)


class _Matching(VectorHead):
    def __init__(self, shape: tuple[int, int, int], embedding: Embedding, scale: float) -> None:
        super().__init__(shape, embedding)
        self.scale = scale

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        attention = self._similarity(support, query).log_softmax(2)
        return torch.unflatten(attention, 2, support.shape[1:3]).logsumexp(3)

    def products(self, support: Tensor, query: Tensor, r0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        within = torch.unflatten(self._similarity(support, query), 2, support.shape[1:3]).softmax(3)
        images = (r0.unsqueeze(3) * within).flatten(2)
        return unit(query, 2), unit(support.flatten(1, 2), 2), images

    def evidence(self, cache: HeadCache) -> Tensor:
        cosine = self._similarity(self._embed(cache.support), self._embed(cache.query)) / self.scale
        by_class = torch.unflatten(cosine, 2, cache.support.shape[1:3])
        return (by_class * (self.scale * by_class).softmax(3)).sum(3)

    def _similarity(self, support: Tensor, query: Tensor) -> Tensor:
        cosine = unit(query, 2) @ unit(support.flatten(1, 2), 2).mT
        return self.scale * cosine
