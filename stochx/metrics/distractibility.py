"""Distractibility."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._parts import (
    AXIS,
    LEAST_COST,
    THRESHOLDS,
    costs,
    important,
    parts_of,
    shares,
    visible_pieces,
    with_reasons,
)


@dataclass(frozen=True)
class Distractibility:
    """Distractibility: how much of what the network does not use is left out by the map.

        1 - #(I_t and J) / #J,  J = parts and pieces of the background without which the logit falls by less than 5 %

    I_t holds what has more than a share t of the map. Pieces are the fragments of `shapes:domain=clutter`, or else the
    background as a whole, in whose place another one is drawn (Hesse et al., 2023). The value is the mean over 80
    thresholds t from .01 to .5. Undefined where the network uses everything.
    """

    reduce: Literal["abs", "signed"] = "abs"  # share of absolute sums less that of the area, or of signed channel sums

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "parts"})
    axis: ClassVar[str] = AXIS
    bounds: ClassVar[Bounds] = SHARE
    height: ClassVar[str] = "share of what is not used"

    @property
    def reduction(self) -> str:
        """Quantity that makes a part important."""
        return f"{self.reduce} channel sum on parts and background"

    def __call__(self, evidence: Evidence) -> Score:
        parts = parts_of(evidence)
        there = torch.tensor([[variant is not None for variant in each.variants] for each in parts])
        seen = torch.cat([there.to(evidence.map.device), visible_pieces(evidence)], 1)
        unused = (costs(evidence) < LEAST_COST) & seen
        found = important(shares(evidence.map, parts, self.reduce)) & unused[:, None]
        count = unused.sum(1, keepdim=True)
        curve = 1 - found.sum(2).to(evidence.map) / count
        score = Score(curve.mean(1), curve, THRESHOLDS.to(curve.dtype))
        return with_reasons(evidence, score, self.reduce, {"the network uses everything": count[:, 0] == 0})
