"""eMPRT."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stochx.engine.ranking import channel_sum
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._cascade import cascade
from stochx.metrics._undefined import CONSTANT, is_constant, undefined


@dataclass(frozen=True)
class EMPRT:
    """Relative rise of the map's complexity when all weights are re-drawn (Hedström et al., 2024).

        (H(a') - H(a)) / H(a),   H = entropy of the histogram of the signed channel sum, a' = map of random weights

    A map that does not look at the weights has exactly 0; for one that does, random weights should leave less
    structure, hence a rise. It is no ranking: a histogram's range follows its outliers, and lighter tails alone raise
    it. It does not depend on the map's scale or offset. Undefined for a constant map.
    """

    bins: int = 100  # bins of the histogram, from the least to the greatest value
    seed: int = 0  # seed of the new weights

    higher_is_better: ClassVar[None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain"})
    reduction: ClassVar[str] = "histogram of the signed channel sum"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = (-1.0, math.inf)

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError("bins must be at least 2")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        assert evidence.explain is not None
        redrawn = next(cascade(evidence.model, evidence.x, 1, self.seed))
        after = channel_sum(evidence.explain(redrawn.model, evidence.x, evidence.target), "signed").flatten(1)
        before = channel_sum(evidence.map, "signed").flatten(1)
        entropy = histogram_entropy(before, self.bins)
        rise = (histogram_entropy(after, self.bins) - entropy) / entropy
        return undefined(Score(rise, setting=f"{redrawn.layers} layers"), {CONSTANT: is_constant(before)})


def histogram_entropy(values: Tensor, bins: int) -> Tensor:
    """Return the entropy (N,) in nats of the histogram of each row of values (N, D); NaN where one is not finite."""
    finite = values.isfinite().all(1)
    values = values.nan_to_num(0.0, 0.0, 0.0)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    span = (high - low).where(high > low, 1.0)
    place = ((values - low) / span * bins).long().clamp(max=bins - 1)  # the last bin holds the greatest value
    count = torch.zeros(len(values), bins, dtype=values.dtype, device=values.device)
    count.scatter_add_(1, place, torch.ones_like(values))
    entropy: Tensor = torch.special.entr(count / values.shape[1]).sum(1)
    return entropy.where(finite, torch.nan)
