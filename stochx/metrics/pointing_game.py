"""The pointing game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stochx.engine.ranking import channel_sum, positions
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import CONSTANT, NO_OBJECT, is_constant, undefined


@dataclass(frozen=True)
class PointingGame:
    """1 if the map's largest value lies on the object, else 0 (Zhang et al., 2016).

    Ties are broken at random, with a seed. The mask is used as it is, without the paper's margin of 15 pixels.
    Undefined for an empty mask and for a constant map.
    """

    reduce: Literal["abs", "signed"] = "abs"  # use the largest absolute or signed channel sum

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"mask"})
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    @property
    def reduction(self) -> str:
        """Quantity whose maximum counts."""
        return "abs of the channel sum" if self.reduce == "abs" else "channel sum"

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.mask is not None
        strength, inside = channel_sum(evidence.map, self.reduce).flatten(1), evidence.mask.bool().flatten(1)
        largest = positions(strength, evidence.keys) == 0
        hit = (largest & inside).any(1).to(strength.dtype)
        return undefined(Score(hit), {NO_OBJECT: ~inside.any(1), CONSTANT: is_constant(strength)})
