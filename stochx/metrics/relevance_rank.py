"""Relevance rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.engine.ranking import channel_sum, positions
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import CONSTANT, NO_OBJECT, is_constant, undefined


@dataclass(frozen=True)
class RelevanceRank:
    """Share of the K most relevant pixels that lie on the object of K pixels (Arras et al., 2022).

    Pixels are ranked by |channel sum|, with ties broken at random, with a seed. An uninformative map scores the
    object's share of the image. Undefined for an empty mask and for a constant map.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"mask"})
    reduction: ClassVar[str] = "abs of the channel sum"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.mask is not None
        strength, inside = channel_sum(evidence.map).flatten(1), evidence.mask.bool().flatten(1)
        size = inside.sum(1)
        top = positions(strength, evidence.keys) < size[:, None]
        share = (top & inside).sum(1).to(strength.dtype) / size
        return undefined(Score(share), {NO_OBJECT: size == 0, CONSTANT: is_constant(strength)})
