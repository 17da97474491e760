"""Deletion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import READ_BOUNDS
from stochx.metrics._removal import better, pixel_exchange


@dataclass(frozen=True)
class Deletion:
    """Mean probability while pixels are removed, the most relevant first (Petsiuk et al., 2018).

    The area under p(x without the first k pixels) over the share removed, by trapezoids. Black pixels favour maps whose
    own baseline is black, and every removal leaves the distribution of training images: report it for two removals,
    and beside `order=random`.
    """

    steps: int = 50  # steps of the curve
    removal: Literal["mean", "black", "white", "blur", "uniform"] = "mean"  # replacement for removed pixels
    order: Literal["most", "least", "random"] = "most"  # remove the most or the least relevant pixels first
    read: Literal["logit", "probability", "margin"] = "probability"  # score that the curve records
    reduce: Literal["abs", "signed"] = "abs"  # rank pixels by the absolute or the signed channel sum

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "share of pixels removed"
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
        """Lower with the most relevant first, higher with the least; None for a random order."""
        return better(self.order, False)

    @property
    def bounds(self) -> Bounds:
        """The range of the score that the curve records."""
        return READ_BOUNDS[self.read]

    def __call__(self, evidence: Evidence) -> Score:
        return pixel_exchange(evidence, self.steps, self.removal, self.order, self.read, self.reduce, insert=False)
