"""Loss gradients for attacks: of many images, over the draws of a stochastic network, in well-sized batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.device import current, in_batches
from stochx.engine.losses import Goal, Loss
from stochx.engine.network.fused import fused
from stochx.errors import RunError

Estimand = Literal["mean", "vote"]


@dataclass(frozen=True)
class Evaluation:
    """What one look at N points gives: the loss (N,), its gradient (N, C, H, W), and the logits (N, K).

    Over several draws all three are means; with `vote` the loss is that of the mean probabilities. `loss_value` leaves
    the gradient empty.
    """

    loss: Tensor
    gradient: Tensor
    logits: Tensor
    forwards: int


def loss_gradient(
    model: nn.Module,
    points: Tensor,
    goal: Goal,
    loss: Loss,
    eot: int = 1,
    estimand: Estimand = "mean",
) -> Evaluation:
    """The gradient of the loss at `points`: expectation over transformation with `eot` draws (Athalye et al., 2018).

    `mean` follows the mean loss of single draws, what a random draw of the network loses; `vote` the loss of the mean
    probabilities, what an ensemble of draws loses. Draws go through the network together where each image draws its
    own noise, else one after the other. Raises `RunError` for logits or gradients that are not finite.
    """
    return _over_batches(model, points, goal, loss, eot, estimand, torch.empty_like(points))


def loss_value(
    model: nn.Module,
    points: Tensor,
    goal: Goal,
    loss: Loss,
    eot: int = 1,
    estimand: Estimand = "mean",
) -> Evaluation:
    """`loss_gradient` without the gradient, at half the work."""
    return _over_batches(model, points, goal, loss, eot, estimand, points.new_empty(0))


def _over_batches(
    model: nn.Module, points: Tensor, goal: Goal, loss: Loss, eot: int, estimand: Estimand, slopes: Tensor
) -> Evaluation:
    fast = fused(model)
    climbs = bool(slopes.numel())
    rows = fast.rows(points) * (1 if climbs else 2)
    together = min(eot, rows) if getattr(model, "noise", "none") != "forward" else 1
    values, said = points.new_empty(len(points)), dict[int, Tensor]()

    def work(start: int, stop: int) -> None:
        some = slice(start, stop)
        with torch.set_grad_enabled(climbs):
            draws = _Draws(fast.whole, points[some].detach().requires_grad_(climbs), goal[some], loss, eot)
            values[some], said[start] = draws.mean(together) if estimand == "mean" else draws.vote(together)
        if climbs:
            slopes[some] = draws.slope

    in_batches(len(points), max(1, rows // together), work)
    out = torch.cat([said[start] for start in sorted(said)])
    for what, found in (("logits", out), ("loss gradients", slopes)):
        if not found.sum().isfinite() and not found.isfinite().all():  # the sum is quick, and may only overflow
            raise RunError(f"the model's {what} are not finite", "check the weights; an attack would seem to fail")
    return Evaluation(values, slopes, out, eot)


class _Draws:
    """The draws of one batch of points; sums up the slope on the way where the points ask for it."""

    def __init__(self, network: nn.Module, points: Tensor, goal: Goal, loss: Loss, eot: int) -> None:
        self.network, self.points, self.goal, self.loss, self.eot = network, points, goal, loss, eot
        self.slope = points.new_zeros(())

    def mean(self, together: int) -> tuple[Tensor, Tensor]:
        """The mean loss (N,) and mean logits (N, K) of all draws, one graph at a time."""
        value, said = self.points.new_zeros(len(self.points)), torch.zeros(())
        for drawn in self._passes(together):
            losses = self.loss(drawn.flatten(0, 1), self.goal.repeat(len(drawn))).view(len(drawn), -1)
            self._climb(losses.sum() / self.eot)
            value, said = value + losses.detach().sum(0), drawn.detach().sum(0) + said.to(drawn)
        return value / self.eot, said / self.eot

    def vote(self, together: int) -> tuple[Tensor, Tensor]:
        """The loss (N,) of the mean probabilities and the mean logits (N, K); needs the graphs of all draws."""
        drawn = torch.cat(list(self._passes(together)))
        voted = drawn.log_softmax(2).logsumexp(0) - math.log(self.eot)
        losses = self.loss(voted, self.goal)
        self._climb(losses.sum())
        return losses.detach(), drawn.detach().mean(0)

    def _passes(self, together: int) -> Iterator[Tensor]:
        """Logits (R, N, K) of up to `together` draws at a time."""
        for start in range(0, self.eot, together):
            copies = min(together, self.eot - start)
            with current().autocast():
                out = self.network(self.points.repeat(copies, 1, 1, 1) if copies > 1 else self.points)
            yield out.to(self.points.dtype).view(copies, len(self.points), -1)

    def _climb(self, total: Tensor) -> None:
        if self.points.requires_grad:
            self.slope = torch.autograd.grad(total, self.points)[0] + self.slope
