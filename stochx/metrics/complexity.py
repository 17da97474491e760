"""Complexity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from stochx.engine.ranking import channel_sum
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import ZERO, is_zero, undefined


@dataclass(frozen=True)
class Complexity:
    """Entropy of the map in nats: 0 for a single pixel, ln D for D equal ones (Bhatt et al., 2020).

        -sum_i q_i ln q_i,   q = |channel sum| / its total

    It grows with the number of pixels: compare images of one size only. Undefined for a map of zeros.
    """

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    reduction: ClassVar[str] = "abs of the channel sum"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = (0.0, math.inf)

    def __call__(self, evidence: Evidence) -> Score:
        strength = channel_sum(evidence.map).flatten(1)
        share = strength / strength.sum(1, keepdim=True)
        return undefined(Score(torch.special.entr(share).sum(1)), {ZERO: is_zero(strength)})
