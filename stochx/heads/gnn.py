"""Graph networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.fewshot.head import FewShotHead, HeadCache
from stochx.engine.fewshot.lrp_rules import dense, summed
from stochx.heads._graph import GraphNetwork, Level
from stochx.heads._norm import EpisodeNorm


@dataclass(frozen=True)
class GNN:
    """A graph of support and query images whose edges are learned (Garcia & Bruna, 2018; Tseng et al., 2020).

    A node is an image's code of 128 features and its label. A head only serves the number of ways that it was trained
    for. In the papers' form (`transductive`) a graph holds one query of each class, which reveals that no two queries
    share a class.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "",
        "transductive=true",
        "faithful=false",
        "statistics=running",
        "transductive=true,statistics=running",
    )

    transductive: bool = False  # put one query of each class in a graph, as in the papers, instead of a single query
    statistics: Literal["batch", "running"] = "batch"  # norms in eval mode use those of the episode, or of training
    faithful: bool = True  # propagate relevance along every path; the reference leaves one out

    def __call__(self, shape: tuple[int, int, int], way: int) -> FewShotHead[GraphCache]:
        return _GNN(shape, way, self)


@dataclass(frozen=True)
class GraphCache(HeadCache):
    """Codes of all nodes (E, G, M, 128), support images first, and the inputs of the levels."""

    codes: Tensor
    levels: list[Level]


class _GNN(FewShotHead[GraphCache]):
    axes = (-1,)
    WIDTH = 128

    def __init__(self, shape: tuple[int, int, int], way: int, settings: GNN) -> None:
        super().__init__(shape)
        self.way, self.transductive, self.faithful = way, settings.transductive, settings.faithful
        self.fc = nn.Linear(shape[0], self.WIDTH)
        self.norm = EpisodeNorm(self.WIDTH, settings.statistics)
        self.graph = GraphNetwork(self.WIDTH + way, way, settings.statistics)

    def compare(self, support: Tensor, query: Tensor) -> GraphCache:
        ways, shots = support.shape[1:3]
        images = torch.cat([support.flatten(1, 2), query], 1).mean((-2, -1))
        examples, queries = torch.split(self.norm(self.fc(images)), [ways * shots, query.shape[1]], 1)
        queries = self._by_graph(queries, ways)
        codes = torch.cat([examples[:, None].expand(-1, queries.shape[1], -1, -1), queries], 2)
        outputs, levels = self._run(codes, shots)
        scores = self._of_queries(outputs, ways * shots)
        return GraphCache(support, query, scores, scores, outputs, codes, levels)

    def seen(self, cache: GraphCache) -> tuple[Tensor, ...]:
        return (cache.codes,)

    def classify(self, cache: GraphCache, features: Sequence[Tensor]) -> Tensor:
        ways, shots = cache.support.shape[1:3]
        return self._of_queries(self._run(features[0], shots)[0], ways * shots)

    def relevance(self, cache: GraphCache, r0: Tensor) -> tuple[Tensor, ...]:
        if r0.dim() == 3:  # relevance of the queries alone
            queries = self._by_graph(r0, r0.shape[2])
            r0 = F.pad(queries, (0, 0, cache.codes.shape[2] - queries.shape[2], 0))
        parts = self.graph.relevance(cache.levels, r0, self.faithful)
        return (sum(parts[1:], start=parts[0])[..., : self.WIDTH],)

    def map_relevance(self, cache: GraphCache, r0: Tensor) -> tuple[Tensor, Tensor]:
        ways, shots = cache.support.shape[1:3]
        (codes,) = self.relevance(cache, r0)
        codes = torch.cat([codes[:, :, : ways * shots].sum(1), self._of_queries(codes, ways * shots)], 1)
        images = torch.cat([cache.support.flatten(1, 2), cache.query], 1)
        maps = summed(images.flatten(3), dense(images.mean((-2, -1)), self.fc.weight, codes)).view(images.shape)
        return maps[:, : ways * shots].view(cache.support.shape), maps[:, ways * shots :]

    def _run(self, codes: Tensor, shots: int) -> tuple[Tensor, list[Level]]:
        """Return the scores (E, G, M, N) of all nodes; the labels of queries are zeros."""
        assert self.way is not None
        label = torch.eye(self.way, dtype=codes.dtype, device=codes.device).repeat_interleave(shots, 0)
        label = F.pad(label, (0, 0, 0, codes.shape[2] - len(label)))
        result: tuple[Tensor, list[Level]] = self.graph(torch.cat([codes, label.expand(*codes.shape[:2], -1, -1)], 3))
        return result

    def _by_graph(self, queries: Tensor, ways: int) -> Tensor:
        """Reshape (E, Q, D) to (E, G, 1, D), or to (E, G, N, D) with one query of each class."""
        if not self.transductive:
            return queries.unsqueeze(2)
        return torch.unflatten(queries, 1, (ways, -1)).transpose(1, 2)

    def _of_queries(self, nodes: Tensor, start: int) -> Tensor:
        """Return the nodes (E, Q, D) of the queries among (E, G, M, D); the inverse of `_by_graph`."""
        queries = nodes[:, :, start:]
        return queries.transpose(1, 2).flatten(1, 2)
