"""Cross-attention networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.fewshot.head import FewShotHead, HeadCache
from stochx.engine.fewshot.lrp_rules import summed, to_shots
from stochx.errors import InputError
from stochx.heads._norm import EpisodeNorm
from stochx.heads._unit import unit


@dataclass(frozen=True)
class CrossAttention:
    """Cross attention of query and class mean, CAN (Hou et al., 2019): score = tau cos(attended query, attended mean).

    The loss is on tau cos(query position, class) in every position and, with `base` classes, on a linear classifier of
    all training classes on the attended query. Gradients of the guided loss flow through the guide's weights. With the
    classifier the guided loss replaces the plain one, as in the reference; without it unweighted features would not be
    trained, so the plain loss stays (xi = 1).
    """

    scale: float = 7.0  # tau
    temperature: float = 0.025  # temperature of the attention's softmax over positions
    local: float = 0.5  # weight of the loss over positions; in the reference, lambda of the guided loss
    base: int = 0  # training classes of the auxiliary classifier; 0 disables it
    detached: bool = False  # treat the guide's weights as constants

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.temperature <= 0 or self.local <= 0 or self.base < 0:
            raise ValueError("scale, temperature and local must be positive, and base must not be negative")

    def __call__(self, shape: tuple[int, int, int], way: int) -> FewShotHead[AttentionCache]:
        return _CrossAttention(shape, self)


@dataclass(frozen=True)
class AttentionCache(HeadCache):
    """Attended unit vectors (E, Q, N, C) of queries and class means, and the attention (E, Q, N, H W) on both.

    `units` (E, Q, C, H, W) are the query's maps with each position scaled to unit length, which attention preserves.
    """

    queries: Tensor
    means: Tensor
    on_query: Tensor
    on_means: Tensor
    units: Tensor


class _CrossAttention(FewShotHead[AttentionCache]):
    axes = (-1, -3)
    by_means = True

    def __init__(self, shape: tuple[int, int, int], settings: CrossAttention) -> None:
        super().__init__(shape)
        self.settings, self.differentiable = settings, not settings.detached
        positions = shape[1] * shape[2]
        few = max(positions // 6, 1)
        self.narrow, self.wide = nn.Linear(positions, few), nn.Linear(few, positions)
        self.norm = EpisodeNorm(few, "running")  # the reference normalises over all episodes of a batch
        for layer in (self.narrow, self.wide):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.out_features))
        self.classifier = nn.Linear(shape[0], settings.base) if settings.base else None
        self.xi = 0.0 if settings.base else 1.0

    def compare(self, support: Tensor, query: Tensor) -> AttentionCache:
        p, q = support.mean(2).flatten(3), query.flatten(3)
        p_units, q_units = unit(p, 2), unit(q, 2)
        on_means, on_query = self._attention(p_units, q_units), self._attention(q_units, p_units)
        means = unit(torch.einsum("enqm,encm->eqnc", on_means, p), 3)
        queries = unit(torch.einsum("eqnm,eqcm->eqnc", on_query, q), 3)
        scores = self.settings.scale * (queries * means).sum(3)
        judged = self.settings.scale * (means @ q_units).view(*scores.shape, *self.shape[1:])
        fields = support, query, scores, judged, scores
        return AttentionCache(*fields, queries, means, on_query, on_means.transpose(1, 2), q_units.view_as(query))

    def seen(self, cache: AttentionCache) -> tuple[Tensor, ...]:
        ways = cache.means.shape[2]
        return cache.means, cache.units.unsqueeze(2).expand(-1, -1, ways, -1, -1, -1)

    def classify(self, cache: AttentionCache, features: Sequence[Tensor]) -> Tensor:
        means, units = features
        return self.settings.scale * torch.einsum("eqnc,eqnchw->eqnhw", means, units)

    def loss(self, scores: Tensor, y: Tensor) -> Tensor:
        return self.settings.local * super().loss(scores, y)

    def auxiliary(self, cache: AttentionCache, y: Tensor, base: Tensor) -> Tensor | None:
        """Return the cross-entropy over all base classes in every position of the query, attended by its own class."""
        if self.classifier is None:
            return None
        if base.max() >= self.settings.base:
            raise InputError(
                f"the head has {self.settings.base} base classes, which are too few",
                f"use `base={int(base.max()) + 1}`",
            )
        own = cache.on_query.gather(2, y[..., None, None].expand(-1, -1, 1, cache.on_query.shape[3]))
        logits = self.classifier((cache.query.flatten(3) * own).mT)
        return F.cross_entropy(logits.flatten(0, 2), base.unsqueeze(2).expand(logits.shape[:3]).flatten())

    def relevance(self, cache: AttentionCache, r0: Tensor) -> tuple[Tensor, ...]:
        """Return relevance of channels (E, Q, N, C), and of each channel in each position of the query (..., H, W)."""
        channels = summed(cache.queries * cache.means, r0)
        return channels, self._to_positions(cache.query.unsqueeze(2), cache.on_query, channels)

    def map_relevance(self, cache: AttentionCache, r0: Tensor) -> tuple[Tensor, Tensor]:
        channels, query = self.relevance(cache, r0)
        means = self._to_positions(cache.support.mean(2).unsqueeze(1), cache.on_means, channels)
        return to_shots(cache.support, means.sum(1)), query.sum(2)

    def guided_weight(self, shot: int) -> float:
        return 1.0

    def _to_positions(self, maps: Tensor, attention: Tensor, channels: Tensor) -> Tensor:
        """Propagate through the mean of the attended map; the scaling to unit length passes relevance unchanged."""
        x = maps * attention.unsqueeze(3).view(*attention.shape[:3], 1, *self.shape[1:])
        return summed(x, summed(x.mean(-1), channels))

    def _attention(self, maps: Tensor, others: Tensor) -> Tensor:
        """Return 1 + softmax (E, A, B, M) over the positions of `maps` (E, A, C, M), paired with `others` (E, B, C, M).

        The softmax is of mean_j c_ij k_j, where c_ij is the cosine of positions i and j and k = net(mean_i c_ij). As
        c_ij is an inner product, both means are taken first, without a table of all pairs of positions.
        """
        kernel = maps.mean(3).unsqueeze(1) @ others
        narrow = self.norm(self.narrow(kernel).flatten(1, 2))
        kernel = self.wide(F.relu(narrow)).view(kernel.shape)
        matched = (kernel @ others.mT / others.shape[3]).transpose(1, 2)
        attention: Tensor = 1 + (matched @ maps / self.settings.temperature).softmax(3)
        return attention
