"""IROF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.ranking import channel_sum, positions
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._removal import better, exchange, replacement, with_unchanged
from stochx.metrics._segments import superpixels


@dataclass(frozen=True)
class IROF:
    """Iterative removal of features: how far the probability falls as superpixels go (Rieger & Hansen, 2020).

        1 - 1 / L sum_l p(x_l) / p(x_0),  l = 1 .. L superpixels removed, those of the largest mean relevance first

    Superpixels follow the edges of the image (SLIC), so that what is removed is a part of it, not a dust of pixels.
    """

    segments: int = 100  # superpixels, about
    removal: Literal["mean", "black", "white", "blur", "uniform"] = "mean"  # replacement for removed superpixels
    order: Literal["most", "least", "random"] = "most"  # remove the most or the least relevant superpixels first
    reduce: Literal["abs", "signed"] = "abs"  # relevance of a pixel: absolute or signed channel sum

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "superpixels removed"
    replaces: ClassVar[str] = "removal"
    height: ClassVar[str] = "share of the probability lost"

    def __post_init__(self) -> None:
        if self.segments < 2:
            raise ValueError("segments must be at least 2")

    @property
    def reduction(self) -> str:
        """Quantity that ranks the superpixels."""
        return f"mean over superpixels of {self.reduce} channel sums"

    @property
    def higher_is_better(self) -> bool | None:
        """Higher with the most relevant first, lower with the least; None for a random order."""
        return better(self.order, True)

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.x is not None
        x, (segment, most) = evidence.x, superpixels(evidence.x, self.segments)
        segment = segment.flatten(1)
        rank, present = self._ranks(evidence, segment, most)
        other = replacement(self.removal, x, evidence.keys)
        counts = torch.arange(most + 1, device=x.device)
        place = rank.gather(1, segment).view(len(x), 1, *x.shape[2:])
        curve = exchange(evidence, place, counts, x, other, "probability")
        lost = 1 - curve / curve[:, :1]
        removed = (counts[1:] <= present[:, None]).to(x)
        value = (lost[:, 1:] * removed).sum(1) / present
        score = Score(value, lost, counts.cpu().to(x.dtype), setting=f"{most} superpixels")
        return with_unchanged(score, x, other)

    def _ranks(self, evidence: Evidence, segment: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Return the place (N, L) of each superpixel in the order, empty ones last, and the number (N,) of others."""
        strength = channel_sum(evidence.map, self.reduce).flatten(1)
        total = strength.new_zeros(len(strength), most).scatter_add_(1, segment, strength)
        size = torch.zeros_like(total).scatter_add_(1, segment, torch.ones_like(strength))
        lowest = -torch.inf if self.order != "least" else torch.inf
        rank = positions((total / size).where(size > 0, lowest), evidence.keys, self.order)
        last = rank + most * (size == 0)  # a random order does not know the empty ones
        return last.argsort(1).argsort(1), (size > 0).sum(1)
