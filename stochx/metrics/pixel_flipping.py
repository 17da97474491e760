"""Pixel flipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stochx.engine.ranking import positions
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import READ_BOUNDS
from stochx.metrics._quadrature import mean_height
from stochx.metrics._removal import better, exchange, replacement, with_unchanged


@dataclass(frozen=True)
class PixelFlipping:
    """Mean score while single values are replaced, the most positive first (Bach et al., 2015).

    Each step replaces single channels of single pixels, where the map has channels, in the order of their signed
    relevance: the strongest evidence for the class goes first. It is a finer, signed variant of `deletion`.
    """

    steps: int = 28  # steps of the curve
    removal: Literal["black", "mean", "white", "blur", "uniform"] = "black"  # replacement for removed values
    order: Literal["most", "least", "random"] = "most"  # replace the most or the least relevant values first
    read: Literal["logit", "probability", "margin"] = "probability"  # score that the curve records

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "none: signed values of single channels"
    axis: ClassVar[str] = "share of values replaced"
    replaces: ClassVar[str] = "removal"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    @property
    def higher_is_better(self) -> bool | None:
        """Lower with the most relevant first, higher with the least; None for a random order."""
        return better(self.order, False)

    @property
    def bounds(self) -> Bounds:
        """The range of the score that the curve records."""
        return READ_BOUNDS[self.read]

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.x is not None
        x, relevance = evidence.x, evidence.map
        place = positions(relevance.flatten(1), evidence.keys, self.order).view(relevance.shape)
        share = torch.linspace(0, 1, self.steps + 1, dtype=x.dtype, device=x.device)
        other = replacement(self.removal, x, evidence.keys)
        counts = (share * relevance[0].numel()).round()
        curve = exchange(evidence, place, counts, x, other, self.read)
        return with_unchanged(Score(mean_height(curve, share), curve, share.cpu()), x, other)
