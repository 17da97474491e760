"""Relation networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.device import at_runtime_precision
from stochx.engine.fewshot.convolution import convolve
from stochx.engine.fewshot.head import FewShotHead, HeadCache
from stochx.engine.fewshot.lrp_rules import combined_weights, convolved, convolved_pairs, dense, each, to_shots, winners
from stochx.heads._norm import EpisodeNorm, Statistics


@dataclass(frozen=True)
class Relation:
    """A learned comparison of query and class mean (Sung et al., 2018): two convolutions over their stacked maps.

    The loss is the squared error of sigmoid(score). As in the papers the norms use the statistics of the episode's
    pairs, so a score depends on the other queries; with `statistics=running` it does not in eval mode.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "hidden=3", "statistics=running")  # settings that are tested

    hidden: int = 8  # hidden units of the layer before the score
    statistics: Literal["batch", "running"] = "batch"  # norms in eval mode use those of the episode, or of training

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError("hidden must be at least 1")

    def __call__(self, shape: tuple[int, int, int], way: int) -> FewShotHead[RelationCache]:
        return _Relation(shape, self.hidden, self.statistics)


@dataclass(frozen=True)
class RelationCache(HeadCache):
    """Class means (E, N, C, H, W), and the layers' inputs for all B = E Q N pairs."""

    means: Tensor
    layers: Layers


@dataclass(frozen=True)
class Layers:
    """Inputs of the second convolution and of both dense layers, and the positions of the maxima."""

    sizes: tuple[torch.Size, torch.Size]  # of the outputs (B, C, H, W) of both convolutions
    first: Tensor
    first_places: Tensor
    second: Tensor
    second_places: Tensor
    hidden: Tensor


class _Relation(FewShotHead[RelationCache]):
    by_means = True

    def __init__(self, shape: tuple[int, int, int], hidden: int, statistics: Statistics) -> None:
        super().__init__(shape)
        channels, *size = shape
        self.padding = 0 if min(size) >= 10 else 1  # large maps lose their border, as in the reference
        self.conv1 = nn.Conv2d(2 * channels, channels, 3, padding=self.padding)
        self.norm1 = EpisodeNorm(channels, statistics)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=self.padding)
        self.norm2 = EpisodeNorm(channels, statistics)
        for _ in range(2):
            size = [max((side - 2 + 2 * self.padding) // 2, 1) for side in size]
        self.fc1 = nn.Linear(channels * size[0] * size[1], hidden)
        self.fc2 = nn.Linear(hidden, 1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def compare(self, support: Tensor, query: Tensor) -> RelationCache:
        means = support.mean(2)
        scores, layers = self._relate(self._normed_pairs(means, query))
        return RelationCache(support, query, scores, scores, scores, means, layers)

    def seen(self, cache: RelationCache) -> tuple[Tensor, ...]:
        return (combined_weights(cache.means, cache.query),)

    def classify(self, cache: RelationCache, features: Sequence[Tensor]) -> Tensor:
        pairs = features[0]
        z = self.norm1(self._first(pairs.flatten(1, 2), self.conv1.weight, self.conv1.bias))
        return self._relate(torch.unflatten(z, 1, pairs.shape[1:3]))[0]

    def loss(self, scores: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(scores.sigmoid(), F.one_hot(y, scores.shape[2]).to(scores))

    def relevance(self, cache: RelationCache, r0: Tensor) -> tuple[Tensor, ...]:
        inputs = cache.layers
        r = dense(inputs.hidden, self.fc2.weight, r0.reshape(-1, 1)) * (inputs.hidden > 0)
        r = dense(inputs.second.flatten(1), self.fc1.weight, r).view_as(inputs.second)
        r = winners(r, inputs.second, inputs.second_places, inputs.sizes[1])
        r = convolved(inputs.first, self.conv2.weight, r, self.padding)
        r = torch.unflatten(winners(r, inputs.first, inputs.first_places, inputs.sizes[0]), 0, r0.shape)
        return (convolved_pairs(cache.means, cache.query, self.conv1.weight, r, self.padding),)

    def map_relevance(self, cache: RelationCache, r0: Tensor) -> tuple[Tensor, Tensor]:
        means, query = torch.split(self.relevance(cache, r0)[0], self.shape[0], 3)
        return to_shots(cache.support, means.sum(1)), query.sum(2)

    def _normed_pairs(self, means: Tensor, query: Tensor) -> Tensor:
        """Return norm1(conv1([mean | query])) (E, Q, N, C, H, W) from one convolution per mean and per query.

        Over pairs, with bars for means over images, var(m + q) = var m + var q + 2 cov(m bar, q bar) over positions.
        """
        first, second = torch.split(self.conv1.weight, self.shape[0], 1)
        m, q = self._first(means, first, None), self._first(query, second, self.conv1.bias)
        dims = (1, 3, 4)
        (m_var, m_mean), (q_var, q_mean) = (torch.var_mean(part, dims, correction=0) for part in (m, q))
        together = (m.mean(1).flatten(2) - m_mean[..., None]) * (q.mean(1).flatten(2) - q_mean[..., None])
        count = means.shape[1] * query.shape[1] * m.shape[3] * m.shape[4]
        scale, shift = self.norm1.affine(m_mean + q_mean, m_var + q_var + 2 * together.mean(2), count)
        scale, shift = scale[:, None, :, None, None], shift[:, None, :, None, None]
        return (m * scale + shift)[:, None] + (q * scale)[:, :, None]

    def _relate(self, pairs: Tensor) -> tuple[Tensor, Layers]:
        """Return scores (E, Q, N) of the normalised first layer's outputs (E, Q, N, C, H, W)."""
        z = pairs.flatten(1, 2)
        first, first_places = _pool(z.flatten(0, 1))
        conv = at_runtime_precision(convolve, first, self.conv2.weight, self.conv2.bias, self.padding)
        second, second_places = _pool(self.norm2(conv.view(*z.shape[:2], *conv.shape[1:])).flatten(0, 1))
        hidden = F.relu(self.fc1(second.flatten(1)))
        sizes = z.flatten(0, 1).shape, conv.shape
        layers = Layers(sizes, first.detach(), first_places, second.detach(), second_places, hidden.detach())
        scores: Tensor = self.fc2(hidden).view(pairs.shape[:3])
        return scores, layers

    def _first(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the first convolution, or its part for means or queries, to all episodes' maps (E, M, C, H, W)."""
        return each(partial(at_runtime_precision, convolve), maps, weight, bias, self.padding)


def _pool(z: Tensor) -> tuple[Tensor, Tensor]:
    """Apply ReLU and 2x2 max pooling, in the cheaper order; sides of 1 stay as they are."""
    window = [min(side, 2) for side in z.shape[2:]]
    largest, places = F.max_pool2d(z, window, return_indices=True)
    return F.relu(largest), places
