"""Completeness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import scores
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import ZERO, is_zero, undefined

ROUNDING = 16  # floating-point steps within which two logits count as equal


@dataclass(frozen=True)
class Completeness:
    """Relative difference of the map's sum and the logit's gain over a baseline (Sundararajan et al., 2017).

        |sum a - (f(x) - f(b))| / |f(x) - f(b)|

    It depends on the scale of the map, and does not apply to maps that claim no completeness (gradient, SmoothTaylor,
    Grad-CAM). Undefined for a map of zeros, and where f(x) = f(b) up to rounding.
    """

    baseline: Literal["black", "white", "mean", "blur"] = "black"  # baseline image, without evidence

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "sum of all signed values"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = (0.0, math.inf)
    scaled: ClassVar[bool] = True  # depends on the scale of the map

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        model, x, target = evidence.model, evidence.x, evidence.target
        full, empty = scores(model, x, target), scores(model, BASELINES[self.baseline](x), target)
        gain = full - empty
        level = gain.abs() <= ROUNDING * torch.finfo(gain.dtype).eps * torch.maximum(full.abs(), empty.abs())
        off = (evidence.map.flatten(1).sum(1) - gain).abs() / gain.abs()
        return undefined(
            Score(off), {ZERO: is_zero(evidence.map), f"the logit is that of the {self.baseline} baseline": level}
        )
