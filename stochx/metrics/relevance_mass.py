"""Relevance mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.engine.ranking import channel_sum
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import NO_OBJECT, ZERO, is_zero, undefined


@dataclass(frozen=True)
class RelevanceMass:
    """Share of the relevance that lies on the object (Arras et al., 2022).

        sum_mask |a| / sum |a|,   a = the channel sum

    An uninformative map scores the object's share of the image, so compare with that. It uses absolute values because
    a signed total may be close to zero. Undefined for an empty mask and a map of zeros.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"mask"})
    reduction: ClassVar[str] = "abs of the channel sum"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.mask is not None
        strength, inside = channel_sum(evidence.map).flatten(1), evidence.mask.bool().flatten(1)
        share = strength.where(inside, 0).sum(1) / strength.sum(1)
        return undefined(Score(share), {NO_OBJECT: ~inside.any(1), ZERO: is_zero(strength)})
