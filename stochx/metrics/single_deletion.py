"""Single deletion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stochx.engine.ranking import spearman
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._parts import costs, parts_of, replacement_costs, shares, with_reasons


@dataclass(frozen=True)
class SingleDeletion:
    """Single deletion: how well the map orders the parts as the network does, when one of them goes at a time.

        (1 + rank correlation over parts p of f(x) - f(x without p) and the map's share on p) / 2,  f = logit

    A map that says nothing about parts has 1/2 (Hesse et al., 2023). The image is drawn again without the
    part, or with another variant in its place: then a part counts only if the network sees which one it is.
    """

    intervention: Literal["removal", "replacement"] = "removal"  # draw nothing, or another variant, in a part's place
    reduce: Literal["abs", "signed"] = "abs"  # share of absolute sums less that of the area, or of signed channel sums

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "parts"})
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    @property
    def reduction(self) -> str:
        """Quantity that ranks the parts."""
        return f"{self.reduce} channel sum on parts"

    def __call__(self, evidence: Evidence) -> Score:
        parts = parts_of(evidence)
        count = len(parts[0].masks)
        cost = costs(evidence)[:, :count] if self.intervention == "removal" else replacement_costs(evidence)
        share = shares(evidence.map, parts, self.reduce)[:, :count]
        return with_reasons(evidence, Score((1 + spearman(cost.to(share), share)) / 2), self.reduce)
