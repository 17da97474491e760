"""Infidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import scores
from stochx.engine.seeds import Key, generator
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import altered
from stochx.metrics._undefined import ZERO, is_zero, undefined


@dataclass(frozen=True)
class Infidelity:
    """Mean squared error of the map's prediction of how much the logit drops when pixels change (Yeh et al., 2019).

        E_I (I^T a - (f(x) - f(x - I)))^2

    I is Gaussian noise, or x - x' where x' is x with a random square taken from a baseline image. The prediction is in
    units of the logit per pixel value: appropriate for gradients, and dependent on the scale of the map. A map without
    channels is spread evenly over the image's channels. Noise may take pixels outside [0, 1]. Undefined for a map of
    zeros.
    """

    examples: ClassVar[tuple[str, ...]] = ("draws=5",)  # settings that are tested

    draws: int = 100  # perturbations per image, one forward pass each
    operator: Literal["noise", "square"] = "noise"  # perturbation: noise on every value, or a random square
    sigma: float = 0.1  # standard deviation of the noise in pixels (operator=noise)
    side: float = 0.25  # side of the square as a share of the image's shorter side (operator=square)
    baseline: Literal["black", "white", "mean", "blur"] = "mean"  # content of the square (operator=square)

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "none: signed values of single channels"
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = (0.0, math.inf)
    scaled: ClassVar[bool] = True  # depends on the scale of the map

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be at least 1")
        if self.sigma <= 0:
            raise ValueError("sigma must be positive")
        if not 0 < self.side <= 1:
            raise ValueError("side must lie in (0, 1]")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        x, keys = evidence.x, evidence.keys
        relevance = evidence.map * (evidence.map.shape[1] / x.shape[1])
        reference = BASELINES[self.baseline](x) if self.operator == "square" else x
        side = max(1, round(self.side * min(x.shape[2:])))
        forecast = x.new_empty(len(x), self.draws)

        def build(image: Tensor, draw: Tensor) -> Tensor:
            chosen = [(keys[n], i) for n, i in zip(image.tolist(), draw.tolist(), strict=True)]
            if self.operator == "noise":
                step = self.sigma * _noise(x, chosen)
            else:
                step = (x[image] - reference[image]) * _square(x, chosen, side)
            forecast[image, draw] = (step * relevance[image]).flatten(1).sum(1)
            return x[image] - step

        after = altered(evidence.model, x, evidence.target, self.draws, build)
        loss = scores(evidence.model, x, evidence.target)[:, None] - after
        setting = f"squares of {side} px" if self.operator == "square" else ""
        score = Score((forecast - loss).square().mean(1), setting=setting)
        return undefined(score, {ZERO: is_zero(evidence.map)})


def _noise(x: Tensor, chosen: Sequence[tuple[Key, int]]) -> Tensor:
    """Draw standard normal values (B, C, H, W) for (key, draw) pairs, the same in float32 and float64."""
    sources = [generator(key, "infidelity", draw, device=x.device) for key, draw in chosen]
    return torch.stack(
        [torch.randn(x.shape[1:], generator=g, device=x.device, dtype=torch.float32) for g in sources]
    ).to(x.dtype)


def _square(x: Tensor, chosen: Sequence[tuple[Key, int]], side: int) -> Tensor:
    """Return a mask (B, 1, H, W) of one random square per (key, draw) pair; all positions are equally likely."""
    height, width = x.shape[2:]
    places = []
    for key, draw in chosen:
        source = generator(key, "infidelity", draw)
        places.append([int(torch.randint(size - side + 1, (), generator=source)) for size in (height, width)])
    top, left = torch.tensor(places, device=x.device).view(-1, 2, 1).unbind(1)
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows, columns = (row >= top) & (row < top + side), (column >= left) & (column < left + side)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
