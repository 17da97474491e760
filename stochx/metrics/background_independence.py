"""Background independence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._parts import LEAST_COST, costs, visible_pieces
from stochx.metrics._undefined import undefined


@dataclass(frozen=True)
class BackgroundIndependence:
    """Background independence: the share of the background's pieces that the network does not use.

        1 - #(pieces without which the logit falls by 5 % or more) / #(pieces)

    It speaks of the network alone, is the same for every map, and ranks none: read it before scores of maps, as of a
    network that uses the background a good map shows the background (Hesse et al., 2023). Pieces are the fragments of
    `shapes:domain=clutter`, or else the background as a whole. Undefined where none can be seen.
    """

    higher_is_better: ClassVar[None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "parts"})
    reduction: ClassVar[str] = "nothing of the map"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    def __call__(self, evidence: Evidence) -> Score:
        seen = visible_pieces(evidence)
        used = (costs(evidence)[:, -seen.shape[1] :] >= LEAST_COST) & seen
        value = 1 - used.sum(1).to(evidence.map) / seen.sum(1)
        return undefined(Score(value), {"no piece of the background can be seen": ~seen.any(1)})
