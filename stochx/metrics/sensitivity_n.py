"""Sensitivity-n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import scores
from stochx.engine.ranking import channel_sum
from stochx.engine.seeds import generator
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import altered
from stochx.metrics._undefined import CONSTANT, is_constant, undefined


@dataclass(frozen=True)
class SensitivityN:
    """Correlation of what the map says of a random set of n pixels with what their removal costs (Ancona et al., 2018).

        corr_S(sum_{i in S} a_i, f(x) - f(x without S)),  |S| = n;  a = channel sum, f = logit

    The value is the mean over several n, from a small to a large share of the pixels. It is 1 at every n for the terms
    of a sum of pixels, and for no other network. A correlation where either side does not vary is 0. Undefined for a
    constant map.
    """

    examples: ClassVar[tuple[str, ...]] = ("sizes=3,draws=10",)  # settings that are tested

    sizes: int = 8  # sizes n of the sets, evenly spaced in their logarithm
    draws: int = 100  # random sets of each size, one forward pass each
    first: float = 0.01  # smallest n, as a share of the pixels
    last: float = 0.8  # largest n, as a share of the pixels
    removal: Literal["black", "mean", "white", "blur"] = "black"  # replacement for removed pixels

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "signed channel sum"
    axis: ClassVar[str] = "share of pixels in a set"
    replaces: ClassVar[str] = "removal"
    bounds: ClassVar[Bounds] = (-1.0, 1.0)
    height: ClassVar[str] = "correlation"

    def __post_init__(self) -> None:
        if self.sizes < 1:
            raise ValueError("sizes must be at least 1")
        if self.draws < 3:
            raise ValueError("draws must be at least 3")
        if not 0 < self.first <= self.last < 1:
            raise ValueError("first and last must lie in (0, 1), first below last")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        x, keys, relevance = evidence.x, evidence.keys, channel_sum(evidence.map, "signed").flatten(1)
        other, pixels = BASELINES[self.removal](x), relevance.shape[1]
        share = self.first * (self.last / self.first) ** torch.linspace(0, 1, self.sizes, dtype=torch.float64)
        counts = (share * pixels).round().clamp(1, max(1, pixels - 1)).long().tolist()
        forecast = x.new_empty(len(x), self.sizes * self.draws)

        def build(image: Tensor, copy: Tensor) -> Tensor:
            gone = torch.zeros(len(image), pixels, dtype=torch.bool, device=x.device)
            for row, (n, c) in enumerate(zip(image.tolist(), copy.tolist(), strict=True)):
                source = generator(keys[n], "sensitivity-n", c)
                gone[row, torch.randperm(pixels, generator=source)[: counts[c // self.draws]].to(x.device)] = True
            forecast[image, copy] = (relevance[image] * gone).sum(1)
            return torch.where(gone.view(-1, 1, *x.shape[2:]), other[image], x[image])

        left = altered(evidence.model, x, evidence.target, self.sizes * self.draws, build)
        cost = scores(evidence.model, x, evidence.target)[:, None] - left
        sides = (side.view(len(x), self.sizes, self.draws) for side in (forecast, cost))
        curve = correlation(*sides)
        places = torch.tensor(counts, dtype=x.dtype) / pixels
        return undefined(Score(curve.mean(1), curve, places), {CONSTANT: is_constant(relevance)})


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation along the last axis; 0 where either side does not vary."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    spread = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return ((a * b).sum(-1) / spread.where(spread > 0, 1)).clamp(-1, 1)
