"""How many draws of a stochastic network the gradient of an attack needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochx.engine.ascent import loss_gradient
from stochx.engine.device import as_float64
from stochx.engine.losses import Goal, cross_entropy
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball

IMAGES = 8  # images that are measured
HALF = 8  # draws of each of two independent gradients
STEPS = 4  # steps between the points that are measured: the image, the middle and the end of a short attack
AGREEMENT = 0.9  # cosine between the mean gradient of the draws and the true one
FEWEST, MOST = 2, 50  # draws


@dataclass(frozen=True)
class Draws:
    """Draws that a gradient needs, and the `agreement` (cosine) of their mean with the true gradient.

    `capped`: more would be needed than an attack takes unless it is told to. `agreement` is None where nothing was
    measured.
    """

    draws: int
    agreement: float | None = None
    capped: bool = False


def needed_draws(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, seed: int) -> Draws:
    """Measure how many draws of the network's noise a gradient needs, on images x (N, C, H, W) with labels y (N,).

    The mean gradient of K draws has the cosine 1 / sqrt(1 + r / K) to the true gradient g, where r = tr(Sigma) / |g|^2
    is the relative variance of one draw. With the means a, b of K / 2 draws each, cos(a, b) estimates 1 / (1 + 2 r / K)
    without bias by the draws' noise, so that r = (K / 2) (1 - cos) / cos. The count is that for a cosine of 0.9 at the
    median image, at the hardest of three points of a short attack.
    """
    points, worst = x, 0.0
    with seeded(seed, "needed draws"):
        for measured in range(3):
            a, b = (loss_gradient(model, points, Goal(y), cross_entropy, HALF).gradient for _ in range(2))
            worst = max(worst, _relative_variance(a, b))
            for _ in range(STEPS if measured < 2 else 0):
                slope = loss_gradient(model, points, Goal(y), cross_entropy, HALF).gradient
                points = ball.project(points + 2.5 * ball.eps / (2 * STEPS) * ball.ascent(slope), x)
    enough = AGREEMENT**2 / (1 - AGREEMENT**2) * worst
    draws = max(FEWEST, min(MOST, math.ceil(enough) if math.isfinite(enough) else MOST))
    return Draws(draws, 1 / math.sqrt(1 + worst / draws), capped=enough > MOST)


def _relative_variance(a: Tensor, b: Tensor) -> float:
    """Return the median over images of the relative variance of one draw, from gradients a, b (N, C, H, W)."""
    cosine = torch.nn.functional.cosine_similarity(as_float64(a.flatten(1)), as_float64(b.flatten(1)))
    median = float(cosine.median())
    return HALF * (1 - median) / median if median > 0 else math.inf
