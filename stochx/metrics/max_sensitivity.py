"""Max-sensitivity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._undefined import ZERO, is_zero, undefined


@dataclass(frozen=True)
class MaxSensitivity:
    """Largest change of the map under small changes of the pixels (Yeh et al., 2019).

        max_d ||Phi(x + d) - Phi(x)|| / ||Phi(x)||,   d uniform in [-radius, radius], for the target of x

    The largest of a few draws is a lower bound of the maximum and grows with their number. The random draws inside a
    method are the same for x and x + d. Pixels may leave [0, 1], as in the paper: clipping would shrink d for dark and
    bright images. A map that ignores the image scores a perfect 0. Undefined for a map of zeros.
    """

    examples: ClassVar[tuple[str, ...]] = ("draws=2",)  # settings that are tested

    draws: int = 10  # perturbed copies per image, one map each
    radius: float = 0.02  # largest change of a pixel
    form: Literal["max", "mean"] = "max"  # largest or mean change of the map

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain"})
    reduction: ClassVar[str] = "none: signed values of single channels"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = (0.0, math.inf)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be at least 1")
        if self.radius <= 0:
            raise ValueError("radius must be positive")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        assert evidence.explain is not None
        x, relevance = evidence.x, evidence.map
        changes = []
        for draw in range(self.draws):  # all images at once: `explain` finds their keys by index
            nearby = x + self.radius * torch.stack([_direction(x, key, draw) for key in evidence.keys])
            nearby_map = evidence.explain(evidence.model, nearby, evidence.target)
            changes.append((nearby_map - relevance).flatten(1).norm(dim=1))
        change = torch.stack(changes, 1) / relevance.flatten(1).norm(dim=1, keepdim=True)
        return undefined(Score(FORMS[self.form](change)), {ZERO: is_zero(relevance)})


FORMS = {"max": lambda change: change.amax(1), "mean": lambda change: change.mean(1)}


def _direction(x: Tensor, key: Key, draw: int) -> Tensor:
    """Draw uniform values (C, H, W) in [-1, 1], the same in float32 and float64."""
    source = generator(key, "max-sensitivity", draw, device=x.device)
    return 2 * torch.rand(x.shape[1:], generator=source, device=x.device, dtype=torch.float32).to(x.dtype) - 1
