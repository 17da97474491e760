"""R-OMS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._removal import pixel_exchange


@dataclass(frozen=True)
class ROMS:
    """Reference out-of-model scope: mean confidence of the network while random pixels are removed.

        int_0^1 max_c p(c | x without a random share q) dq

    A number about a removal, not about maps, which it ignores (Blücher et al., 2024): where it is low, the removal
    itself soon takes the image out of what the network knows. Then orders that remove the least relevant pixels first
    tell methods apart more reliably; where it is high, those that remove the most relevant first. `srg` needs neither.
    """

    steps: int = 50  # steps of the curve
    removal: Literal["mean", "black", "white", "blur", "uniform"] = "mean"  # replacement for removed pixels

    higher_is_better: ClassVar[None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "none: the map is not looked at"
    axis: ClassVar[str] = "share of pixels removed"
    replaces: ClassVar[str] = "removal"
    bounds: ClassVar[Bounds] = SHARE
    height: ClassVar[str] = "largest probability"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    def __call__(self, evidence: Evidence) -> Score:
        return pixel_exchange(evidence, self.steps, self.removal, "random", "confidence", "abs", insert=False)
