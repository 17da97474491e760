"""Sparseness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from stochx.engine.ranking import channel_sum
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import ZERO, is_zero, undefined


@dataclass(frozen=True)
class Sparseness:
    """Gini index of the map: 0 if all pixels are equal, close to 1 if a few carry all (Chalasani et al., 2020).

        sum_k (2 k - D - 1) s_k / (D sum_k s_k),   s = the D values of |channel sum| in ascending order

    It does not depend on the network: a map may be sparse and wrong. Undefined for a map of zeros.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()
    reduction: ClassVar[str] = "abs of the channel sum"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    def __call__(self, evidence: Evidence) -> Score:
        strength = channel_sum(evidence.map).flatten(1)
        rising, count = strength.sort(1).values, strength.shape[1]
        weight = torch.arange(1 - count, count, 2, dtype=strength.dtype, device=strength.device)
        gini = (rising / rising.sum(1, keepdim=True)) @ weight / count
        return undefined(Score(gini), {ZERO: is_zero(strength)})
