"""A graph network whose edges are learned from the differences of its nodes (Garcia & Bruna, 2018)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.device import at_runtime_precision
from stochx.engine.fewshot.convolution import linear
from stochx.engine.fewshot.lrp_rules import dense, mixed
from stochx.heads._norm import EpisodeNorm, Statistics

WIDTH, NEW = 96, 48  # units of the narrow edge layers; features that each level adds to a node


@dataclass(frozen=True)
class Level:
    """The inputs of a level: nodes x (E, G, M, D) of G graphs, and its edges (E, G, M, M), whose rows sum to 1."""

    x: Tensor
    edges: Tensor


class Edges(nn.Module):
    """Edge weights: the softmax over j != i of a network of four layers and a linear output on |x_i - x_j|.

    Pairs (i, j) and (j, i) are equal, so only one of them is computed, with half of the zero pairs (i, i): the
    statistics of the norms stay the same.
    """

    def __init__(self, width: int, statistics: Statistics) -> None:
        super().__init__()
        widths = [width, 2 * WIDTH, 2 * WIDTH, WIDTH, WIDTH]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(EpisodeNorm(b, statistics) for b in widths[1:])
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        nodes = x.shape[2]
        i, j = torch.triu_indices(nodes, nodes, 1, device=x.device)
        units = torch.eye(nodes, dtype=x.dtype, device=x.device)
        pairs = ((units[i] - units[j]) @ x).abs()
        y = _with_zeros(pairs.flatten(1, 2), x.shape[1] * nodes)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = F.leaky_relu(norm(at_runtime_precision(linear, y, layer.weight, layer.bias)))
        similarity = self.last(y[:, : len(i) * x.shape[1]]).view(pairs.shape[:-1])
        place = torch.zeros(nodes, nodes, dtype=torch.long, device=x.device)
        place[i, j] = place[j, i] = torch.arange(len(i), device=x.device)
        edges: Tensor = similarity[..., place].masked_fill(units > 0, -torch.inf).softmax(-1)
        return edges


def _with_zeros(rows: Tensor, itself: int) -> Tensor:
    """Append a zero row for every two nodes to rows (E, B, D), each of which stands for two; double all if odd."""
    if itself % 2:
        rows, itself = rows.repeat(1, 2, 1), 2 * itself
    return F.pad(rows, (0, 0, 0, itself // 2))


class GraphNetwork(nn.Module):
    """Nodes (E, G, M, D) -> (E, G, M, N): two levels add features to each node, the third returns scores.

    y = fc [x, A x], A the level's edges.
    """

    def __init__(self, width: int, way: int, statistics: Statistics) -> None:
        super().__init__()
        self.widths = [width, width + NEW, width + 2 * NEW]
        self.edges = nn.ModuleList(Edges(width, statistics) for width in self.widths)
        self.layers = nn.ModuleList(
            nn.Linear(2 * width, new) for width, new in zip(self.widths, (NEW, NEW, way), strict=True)
        )
        self.norms = nn.ModuleList(EpisodeNorm(NEW, statistics) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Level]]:
        levels: list[Level] = []
        for edges, layer, norm in zip(self.edges, self.layers, [*self.norms, None], strict=True):
            adjacency = edges(x)
            levels.append(Level(x.detach(), adjacency.detach()))
            y = layer(torch.cat([x, adjacency @ x], 3))
            if norm is not None:
                new = norm(y.flatten(1, 2)).view(y.shape)
                x = torch.cat([x, F.leaky_relu(new)], 3)
        return y, levels

    def relevance(self, levels: list[Level], r: Tensor, skips: bool) -> list[Tensor]:
        """Return the relevance (E, G, M, D) that each level sends to the input nodes directly; the sum is the total.

        Edges are treated as constants; norms and activations pass relevance unchanged. Without `skips`, the path from
        the last level to the features of the first is left out, as in the reference.
        """
        width = self.widths[0]
        last = self._through(2, levels[2], r)
        middle = self._through(1, levels[1], last[..., self.widths[1] :])
        first = middle[..., width:]
        if skips:
            first = first + last[..., width : self.widths[1]]
        return [part[..., :width] for part in (self._through(0, levels[0], first), middle, last)]

    def _through(self, number: int, level: Level, r: Tensor) -> Tensor:
        layer = self.layers[number]
        assert isinstance(layer, nn.Linear)
        own, others = dense(torch.cat([level.x, level.edges @ level.x], 3), layer.weight, r).chunk(2, 3)
        itself = torch.eye(level.x.shape[2], dtype=level.x.dtype, device=level.x.device)
        return mixed(itself, level.x, own) + mixed(level.edges, level.x, others)
