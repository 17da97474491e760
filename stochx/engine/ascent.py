"""Loss gradients for attacks: for many images, over draws of a stochastic network, in batches that fit memory."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.device import current, in_batches
from stochx.engine.losses import Goal, Loss
from stochx.engine.network.fused import fused
from stochx.engine.realisation import drawing, is_realised
from stochx.errors import RunError

Estimand = Literal["mean", "vote"]
_NUMBERS: ContextVar[Iterator[int] | None] = ContextVar("numbers", default=None)


@contextlib.contextmanager
def numbered() -> Iterator[None]:
    """Number the evaluations of the block, which are the steps of an attack: an error says at which one it arose."""
    token = _NUMBERS.set(itertools.count(1))
    try:
        yield
    finally:
        _NUMBERS.reset(token)


@dataclass(frozen=True)
class Evaluation:
    """Loss (N,), gradient (N, C, H, W) and logits (N, K) at N points.

    Over several draws all three are means; with `vote` the loss is that of the mean probabilities. `loss_value` leaves
    the gradient empty.
    """

    loss: Tensor
    gradient: Tensor
    logits: Tensor
    forwards: int
    backwards: int


def loss_gradient(
    model: nn.Module,
    points: Tensor,
    goal: Goal,
    loss: Loss,
    eot: int = 1,
    estimand: Estimand = "mean",
) -> Evaluation:
    """Return the gradient of the loss at `points`, averaged over `eot` draws (EOT; Athalye et al., 2018).

    `mean` is the mean loss of single draws, `vote` the loss of their mean probabilities, as of an ensemble. Draws are
    computed together if each image draws its own noise, otherwise one at a time. Raises `RunError` for logits or
    gradients that are not finite.
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
    """Return the loss and the logits without the gradient, at half the cost of `loss_gradient`."""
    return _over_batches(model, points, goal, loss, eot, estimand, points.new_empty(0))


def _over_batches(
    model: nn.Module, points: Tensor, goal: Goal, loss: Loss, eot: int, estimand: Estimand, slopes: Tensor
) -> Evaluation:
    numbers = _NUMBERS.get()
    where = "" if numbers is None else f" at evaluation {next(numbers)}"
    fast = fused(model, points)
    climbs = bool(slopes.numel())
    rows = fast.rows(points) * (1 if climbs or is_realised() else 2)
    together = 1 if is_realised() or getattr(model, "noise", "none") == "forward" else min(eot, rows)
    values, logits = points.new_empty(len(points)), dict[int, Tensor]()

    def work(start: int, stop: int) -> None:
        batch = slice(start, stop)
        with torch.set_grad_enabled(climbs):
            draws = _Draws(fast.whole, points[batch].detach().requires_grad_(climbs), goal[batch], loss, eot)
            values[batch], logits[start] = draws.mean(together) if estimand == "mean" else draws.vote(together)
        if climbs:
            slopes[batch] = draws.slope

    in_batches(len(points), max(1, rows // together), work)
    out = torch.cat([logits[start] for start in sorted(logits)])
    if not (out.sum() + slopes.sum()).isfinite():  # fast, and waits for the device once; but sums may overflow
        for name, tensor in (("logits", out), ("loss gradients", slopes)):
            if not tensor.isfinite().all():
                raise RunError(
                    f"the model's {name} are not finite{where}",
                    "check the weights; otherwise attacks would appear to fail",
                )
    return Evaluation(values, slopes, out, eot, eot if climbs else 0)


class _Draws:
    """The draws of one batch of points; accumulates the gradient if the points require one."""

    def __init__(self, network: nn.Module, points: Tensor, goal: Goal, loss: Loss, eot: int) -> None:
        self.network, self.points, self.goal, self.loss, self.eot = network, points, goal, loss, eot
        self.slope = points.new_zeros(())

    def mean(self, together: int) -> tuple[Tensor, Tensor]:
        """Return the mean loss (N,) and mean logits (N, K) of all draws, one autograd graph at a time."""
        value, logits = self.points.new_zeros(len(self.points)), torch.zeros(())
        for outputs in self._passes(together):
            losses = self.loss(outputs.flatten(0, 1), self.goal.repeat(len(outputs))).view(len(outputs), -1)
            self._climb(losses.sum() / self.eot)
            value, logits = value + losses.detach().sum(0), outputs.detach().sum(0) + logits.to(outputs)
        return value / self.eot, logits / self.eot

    def vote(self, together: int) -> tuple[Tensor, Tensor]:
        """Return the loss (N,) of the mean probabilities and the mean logits (N, K), with the graphs of all draws."""
        outputs = torch.cat(list(self._passes(together)))
        voted = outputs.log_softmax(2).logsumexp(0) - math.log(self.eot)
        losses = self.loss(voted, self.goal)
        self._climb(losses.sum())
        return losses.detach(), outputs.detach().mean(0)

    def _passes(self, together: int) -> Iterator[Tensor]:
        """Yield logits (R, N, K) of up to `together` draws at a time."""
        for start in range(0, self.eot, together):
            copies = min(together, self.eot - start)
            with current().autocast(), drawing():
                out = self.network(self.points.repeat(copies, 1, 1, 1) if copies > 1 else self.points)
            yield out.to(self.points.dtype).view(copies, len(self.points), -1)

    def _climb(self, total: Tensor) -> None:
        """Add the gradient of `total`, which is zero if the network cuts its outputs off from the pixels."""
        if self.points.requires_grad and total.requires_grad:
            (slope,) = torch.autograd.grad(total, self.points, allow_unused=True)
            self.slope = self.slope if slope is None else slope + self.slope
