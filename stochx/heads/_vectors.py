"""Heads that compare a vector of each image with vectors of the support by inner products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead, HeadCache
from stochx.engine.fewshot.lrp_rules import dense, summed, to_shots

Embedding = Literal["pooled", "mean", "flat"]


class VectorHead(FewShotHead[HeadCache]):
    """The base of heads on vectors; subclasses implement `score` and `products`.

    For `pooled` ones the maps are the backbone's own vectors, or such whose mean over positions is that vector.
    """

    def __init__(self, shape: tuple[int, int, int], embedding: Embedding) -> None:
        super().__init__(shape)
        self.embedding = embedding

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """Return scores (E, Q, N) of vectors (E, N, K, D) and (E, Q, D)."""
        raise NotImplementedError

    def products(self, support: Tensor, query: Tensor, r0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (E, Q, D), s (E, S, D) of all classes or images, and the relevance (E, Q, S) of q s^T."""
        raise NotImplementedError

    def digest(self, maps: Tensor) -> Tensor:
        return maps if self.embedding == "flat" else maps.mean((-2, -1), keepdim=True)

    def takes(self, shape: tuple[int, ...]) -> bool:
        return super().takes(shape) or (self.embedding != "flat" and shape[0] == self.shape[0])

    def compare(self, support: Tensor, query: Tensor) -> HeadCache:
        scores = self.score(self._embed(support), self._embed(query))
        return HeadCache(support, query, scores, scores, scores)

    def seen(self, cache: HeadCache) -> tuple[Tensor, ...]:
        return (cache.query,)

    def classify(self, cache: HeadCache, features: Sequence[Tensor]) -> Tensor:
        return self.score(self._embed(cache.support), self._embed(features[0]))

    def evidence(self, cache: HeadCache) -> Tensor:
        """Return the products (E, Q, N); other terms of a score, such as a length, belong to no feature."""
        q, s, _ = self.products(self._embed(cache.support), self._embed(cache.query), cache.scores)
        return q @ s.mT

    def relevance(self, cache: HeadCache, r0: Tensor) -> tuple[Tensor, ...]:
        q, s, r = self.products(self._embed(cache.support), self._embed(cache.query), r0)
        return (self._to_maps(cache.query, dense(q, s, r)),)

    def map_relevance(self, cache: HeadCache, r0: Tensor) -> tuple[Tensor, Tensor]:
        support = self._embed(cache.support)
        q, s, r = self.products(support, self._embed(cache.query), r0)
        others = dense(s, q, r.mT)
        if s.shape[1] == support.shape[1]:
            others = to_shots(support, others)
        return self._to_maps(cache.support, others.view(support.shape)), self._to_maps(cache.query, dense(q, s, r))

    def _embed(self, maps: Tensor) -> Tensor:
        return maps.flatten(-3) if self.embedding == "flat" else maps.mean((-2, -1))

    def _to_maps(self, maps: Tensor, relevance: Tensor) -> Tensor:
        if self.embedding == "flat":
            return relevance.view(maps.shape)
        return summed(maps.flatten(-2), relevance).view(maps.shape)
