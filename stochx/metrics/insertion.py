"""Insertion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import READ_BOUNDS
from stochx.metrics._removal import better, pixel_exchange


@dataclass(frozen=True)
class Insertion:
    """Mean probability while pixels are inserted into a baseline image, most relevant first (Petsiuk et al., 2018).

    The area under p(baseline with the first k pixels of x) over the share inserted, by trapezoids.
    """

    steps: int = 50  # steps of the curve
    removal: Literal["blur", "mean", "black", "white", "uniform"] = "blur"  # baseline image to start from
    order: Literal["most", "least", "random"] = "most"  # insert the most or the least relevant pixels first
    read: Literal["logit", "probability", "margin"] = "probability"  # score that the curve records
    reduce: Literal["abs", "signed"] = "abs"  # rank pixels by the absolute or the signed channel sum

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "share of pixels inserted"
    replaces: ClassVar[str] = "removal"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    @property
    def reduction(self) -> str:
        """Quantity that ranks the pixels."""
        return f"{self.reduce} channel sum"

    @property
    def higher_is_better(self) -> bool | None:
        """Higher with the most relevant first, lower with the least; None for a random order."""
        return better(self.order, True)

    @property
    def bounds(self) -> Bounds:
        """The range of the score that the curve records."""
        return READ_BOUNDS[self.read]

    def __call__(self, evidence: Evidence) -> Score:
        return pixel_exchange(evidence, self.steps, self.removal, self.order, self.read, self.reduce, insert=True)
