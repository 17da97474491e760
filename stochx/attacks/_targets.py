"""The order of target classes by the distance of their boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stochx.engine.ascent import loss_gradient
from stochx.engine.losses import Goal, gap
from stochx.engine.threat import DUALS, Ball, norm_of


def by_distance(model: nn.Module, x: Tensor, goal: Goal, classes: Tensor, ball: Ball, eot: int) -> Tensor:
    """Return `classes` (N, k), those with the nearest linearised boundary first (MALT; Melamed et al., 2024).

        distance of class l = (z_y - z_l) / |gradient of z_y - z_l|*,  at the image x

    The norm is dual to the ball's. On a stochastic network logits and gradients are means of `eot` draws.
    """
    distances = list[Tensor]()
    for target in classes.T:
        rise = loss_gradient(model, x, Goal(goal.y, target), gap, eot)
        steep = norm_of(rise.gradient.flatten(1), DUALS[ball.norm])
        distances.append(-rise.loss / steep.clamp(min=torch.finfo(steep.dtype).tiny))
    return classes.gather(1, torch.stack(distances, 1).argsort(dim=1, stable=True))
