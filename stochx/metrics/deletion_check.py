"""Deletion check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._parts import AXIS, part_check


@dataclass(frozen=True)
class DeletionCheck:
    """Deletion check: how often the prediction changes when the important parts of the object are not drawn.

        [argmax f(x without I_t) != argmax f(x)],  I_t = parts with more than a share t of the map

    The image is drawn again without these parts: nothing is painted over (Hesse et al., 2023). The value
    is the mean over 80 thresholds t from .01 to .5. Undefined where the network does not predict the class.
    """

    reduce: Literal["abs", "signed"] = "abs"  # share of absolute sums less that of the area, or of signed channel sums

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "parts"})
    axis: ClassVar[str] = AXIS
    bounds: ClassVar[Bounds] = SHARE
    height: ClassVar[str] = "share of predictions changed"

    @property
    def reduction(self) -> str:
        """Quantity that makes a part important."""
        return f"{self.reduce} channel sum on parts"

    def __call__(self, evidence: Evidence) -> Score:
        return part_check(evidence, self.reduce, kept=False)
