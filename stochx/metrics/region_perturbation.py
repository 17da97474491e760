"""Region perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch.nn import functional as F

from stochx.engine.device import as_float64
from stochx.engine.ranking import channel_sum, positions
from stochx.engine.statistics import UNBOUNDED, Bounds
from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._removal import better, exchange, replacement, with_unchanged


@dataclass(frozen=True)
class RegionPerturbation:
    """AOPC: the mean drop of the score as regions of a grid are removed (Samek et al., 2017, eq. 12).

        1 / (L + 1) sum_k (f(x_0) - f(x_k)),  k = 0 .. L regions removed, the most relevant first

    The relevance of a region is the sum over its pixels. `aupc` places its regions freely, not on a grid.
    """

    examples: ClassVar[tuple[str, ...]] = ("regions=9,side=4",)  # settings that are tested

    side: int = 0  # side of a region in pixels; 0 means 1/25 of the image's shorter side (9 of 224)
    regions: int = 100  # number L of regions to remove
    removal: Literal["uniform", "mean", "black", "white", "blur"] = "uniform"  # replacement for removed regions
    order: Literal["most", "least", "random"] = "most"  # remove the most or the least relevant regions first
    read: Literal["logit", "probability", "margin"] = "probability"  # score that the curve records
    reduce: Literal["abs", "signed"] = "abs"  # relevance of a region: sum of absolute or of signed channel sums

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "regions removed"
    replaces: ClassVar[str] = "removal"

    def __post_init__(self) -> None:
        if self.side < 0:
            raise ValueError("side must not be negative")
        if self.regions < 1:
            raise ValueError("regions must be at least 1")

    @property
    def reduction(self) -> str:
        """Quantity that ranks the regions."""
        return f"sum over regions of {self.reduce} channel sums"

    @property
    def higher_is_better(self) -> bool | None:
        """Higher with the most relevant first, lower with the least; None for a random order."""
        return better(self.order, True)

    @property
    def bounds(self) -> Bounds:
        """Drops of a probability are at most 1."""
        return (-1.0, 1.0) if self.read == "probability" else UNBOUNDED

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.x is not None
        x, (height, width) = evidence.x, evidence.x.shape[2:]
        side = self.side or max(1, round(min(height, width) / 25))
        rows, columns = height // side, width // side
        if rows * columns < self.regions:
            raise InputError(
                f"only {rows * columns} regions of {side} pixels fit into {height} x {width}",
                f"use `region-perturbation:regions={rows * columns}`" if rows * columns else "use a smaller side",
            )
        strength = channel_sum(evidence.map, self.reduce)
        total = F.avg_pool2d(as_float64(strength)[:, None], side).flatten(1)
        grid = positions(total, evidence.keys, self.order).to(x.device).view(len(x), 1, rows, columns)
        place = grid.repeat_interleave(side, 2).repeat_interleave(side, 3)
        beyond = (0, width - place.shape[3], 0, height - place.shape[2])
        place = F.pad(place, beyond, value=rows * columns)  # the remainder at the border is never removed
        other = replacement(self.removal, x, evidence.keys)
        counts = torch.arange(self.regions + 1, device=x.device)
        curve = exchange(evidence, place, counts, x, other, self.read)
        score = Score(
            value=(curve[:, :1] - curve).mean(1),
            curve=curve,
            places=counts.cpu().to(x.dtype),
            setting=f"{self.regions} regions of {side} px",
        )
        return with_unchanged(score, x, other)
