"""Completeness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import scores
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import ZERO, is_zero, undefined

ROUNDING = 16  # steps of floating point within which two logits are one


@dataclass(frozen=True)
class Completeness:
    """How far the map's sum is off what the logit gains over a baseline, as a share (Sundararajan et al., 2017).

        |sum a - (f(x) - f(b))| / |f(x) - f(b)|

    It measures units, so it changes with the scale of the map; it is no subject for maps that promise no completeness
    (a gradient, SmoothTaylor, Grad-CAM). Undefined for a map of zeros, and where f(x) = f(b) up to rounding.
    """

    baseline: Literal["black", "white", "mean", "blur"] = "black"  # image without evidence

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "sum of all signed values"
    axis: ClassVar[str] = ""
    scaled: ClassVar[bool] = True  # changes with the scale of a map

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
