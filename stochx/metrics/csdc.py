"""Controlled synthetic data check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

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
        curve = torch.stack([_largest(each, own) for each, own in zip(parts, chosen, strict=True)])
        wrong = not_of_the_object(evidence)
        score = Score(curve.mean(1), curve, THRESHOLDS.to(curve.dtype))
        return with_reasons(evidence, score, self.reduce, {"the map is not of the object's class": wrong})


def _largest(parts: Parts, chosen: Tensor) -> Tensor:
    """Return the largest share (T,) of a smallest set that tells the object's class among the chosen parts (T, Q).

    Sets of which the object lacks a part do not count. The empty set, which tells the only class there is, is whole.
    """
    there = {part for part, variant in enumerate(parts.variants) if variant is not None}
    sets = [found for found in sufficient_sets(parts.table[parts.label], parts.table) if found <= there]
    holds = torch.tensor([[q in found for q in range(chosen.shape[1])] for found in sets]).to(chosen)
    size = holds.sum(1)
    return ((chosen @ holds.T + (size == 0)) / size.clamp(min=1)).amax(1)
