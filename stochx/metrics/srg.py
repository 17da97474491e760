"""SRG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from stochx.engine.statistics import UNBOUNDED, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._removal import pixel_exchange


@dataclass(frozen=True)
class SRG:
    """Symmetric relevance gain: the score with the least relevant pixels removed, minus that with the most relevant.

        int_0^1 f(x without its least relevant share q) - f(x without its most relevant share q) dq

    It is insertion minus deletion at equal removal, grid and score (Blücher et al., 2024). What a removal does to any
    pixels cancels: a random order has 0, and methods keep their ranks from one removal to another, which they do not
    under `deletion` or `insertion` alone. It still favours blurred maps: read it beside `--controls`.
    """

    steps: int = 50  # steps of the curve
    removal: Literal["mean", "black", "white", "blur", "uniform"] = "mean"  # replacement for removed pixels
    read: Literal["logit", "probability", "margin"] = "probability"  # score whose difference the curve records
    reduce: Literal["abs", "signed"] = "abs"  # rank pixels by the absolute or the signed channel sum

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    axis: ClassVar[str] = "share of pixels removed"
    replaces: ClassVar[str] = "removal"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    @property
    def height(self) -> str:
        """Label of the curve's y axis."""
        return f"{self.read}, least first - most first"

    @property
    def reduction(self) -> str:
        """Quantity that ranks the pixels."""
        return f"{self.reduce} channel sum"

    @property
    def bounds(self) -> Bounds:
        """Differences of probabilities are at most 1."""
        return (-1.0, 1.0) if self.read == "probability" else UNBOUNDED

    def __call__(self, evidence: Evidence) -> Score:
        options = self.steps, self.removal
        most = pixel_exchange(evidence, *options, "most", self.read, self.reduce, insert=False)
        least = pixel_exchange(evidence, *options, "least", self.read, self.reduce, insert=False)
        assert most.curve is not None and least.curve is not None
        return replace(most, value=least.value - most.value, curve=least.curve - most.curve)
