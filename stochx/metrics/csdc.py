"""Controlled synthetic data check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stochx.engine.parts import Parts, sufficient_sets
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._parts import AXIS, THRESHOLDS, important, not_of_the_object, parts_of, shares, with_reasons


@dataclass(frozen=True)
class CSDC:
    """Controlled synthetic data check: how much of a set of parts that tells the class a map holds important.

        max over M of #(M and I_t) / #M,  I_t = parts with more than a share t of the map

    M are the smallest sets of parts that no other class has, known from how the images were made (Hesse et al., 2023).
    The value is the mean over 80 thresholds t from .01 to .5; the paper takes the one that is best on the test set.
    Undefined where the map is not of the object's class.
    """

    reduce: Literal["abs", "signed"] = "abs"  # share of absolute sums less that of the area, or of signed channel sums

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "parts"})
    axis: ClassVar[str] = AXIS
    bounds: ClassVar[Bounds] = SHARE
    height: ClassVar[str] = "share of a sufficient set"

    @property
    def reduction(self) -> str:
        """Quantity that makes a part important."""
        return f"{self.reduce} channel sum on parts"

    def __call__(self, evidence: Evidence) -> Score:
        parts = parts_of(evidence)
        chosen = important(shares(evidence.map, parts, self.reduce)).to(evidence.map)
        curve = torch.stack([_largest(sets, each) for sets, each in zip(map(_sets, parts), chosen, strict=True)])
        wrong = not_of_the_object(evidence)
        score = Score(curve.mean(1), curve, THRESHOLDS.to(curve.dtype))
        return with_reasons(evidence, score, self.reduce, {"the map is not of the object's class": wrong})


def _sets(parts: Parts) -> list[list[int]]:
    """Return the smallest sets of parts of an object that tell its class; those that lack none of them."""
    there = {part for part, variant in enumerate(parts.variants) if variant is not None}
    return [sorted(found) for found in sufficient_sets(parts.table[parts.label], parts.table) if found <= there]


def _largest(sets: Iterable[list[int]], chosen: torch.Tensor) -> torch.Tensor:
    """Return the largest share (T,) of a set that is among the chosen parts (T, Q); the empty set is always whole."""
    return torch.stack([chosen[:, found].sum(1) / max(1, len(found)) + (not found) for found in sets]).amax(0)
