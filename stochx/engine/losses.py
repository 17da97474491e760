"""Losses that attacks maximise: logits (N, K) and a goal -> (N,). Larger is more wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.errors import UsageError

TINY = 1e-12
FAINT = -16.0  # logarithm of the least probability, 1e-7, that float32 can tell from 0 in 1 - p


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Return the mean KL(softmax(reference) || softmax(logits)) over logits (N, K), with gradients for both."""
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class Goal:
    """The goal of an attack on N images: any class but `y` (N,), or the class `target` (N,).

    `reference` (N, K), for `kl`, are the probabilities of the clean image, to diverge from.
    """

    y: Tensor
    target: Tensor | None = None
    reference: Tensor | None = None

    def __getitem__(self, places: Tensor | slice) -> Goal:
        """Return the goal of the selected images."""
        parts = [None if part is None else part[places] for part in (self.target, self.reference)]
        return Goal(self.y[places], *parts)

    def repeat(self, draws: int) -> Goal:
        """Return the goal for `draws` stacked copies of the images."""
        if draws == 1:
            return self
        target = None if self.target is None else self.target.repeat(draws)
        reference = None if self.reference is None else self.reference.repeat(draws, 1)
        return Goal(self.y.repeat(draws), target, reference)


Loss = Callable[[Tensor, Goal], Tensor]


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Return -log p(y), or log p(target)."""
    if goal.target is None:
        return F.cross_entropy(logits, goal.y, reduction="none")
    return -F.cross_entropy(logits, goal.target, reduction="none")


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """Return the largest other logit minus y's, or the target's minus the largest other (Carlini & Wagner, 2017).

    Above 0 the image is misclassified, or classified as the target.
    """
    if goal.target is not None:
        return logit_of(logits, goal.target) - largest_other(logits, goal.target)
    return largest_other(logits, goal.y) - logit_of(logits, goal.y)


def gap(logits: Tensor, goal: Goal) -> Tensor:
    """Return the target's logit, or the largest other one, minus y's."""
    other = largest_other(logits, goal.y) if goal.target is None else logit_of(logits, goal.target)
    return other - logit_of(logits, goal.y)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Return the difference of logits ratio (Croce & Hein, 2020, eq. 6 and 7): the gap over the spread of top logits.

    It does not depend on the scale of the logits, and needs 3 classes, or 4 with a target.
    """
    count = 3 if goal.target is None else 4
    if logits.shape[1] < count:
        raise UsageError(f"`dlr` needs {count} classes, the model has {logits.shape[1]}", "use `loss=margin`")
    top = logits.topk(count, dim=1).values
    spread = top[:, 0] - (top[:, 2] if goal.target is None else 0.5 * (top[:, 2] + top[:, 3]))
    return gap(logits, goal) / (spread + TINY)


def probability(log: Tensor) -> Tensor:
    """Return exp(log), continued by its tangent below `FAINT`, so that its gradient does not vanish."""
    seen = log.clamp(min=FAINT)
    return seen.exp() * (1 + log - seen)


def probability_margin(logits: Tensor, goal: Goal) -> Tensor:
    """Return 1 + p(target) - p(y), or that of the most probable other class (PMA; Xie et al., 2024).

    With a target it is linear in the probabilities: over draws of a stochastic network the mean loss is the loss of
    their mean. It is computed without cancellation as p(target) + the sum of all p but p(y). Where float32 rounds p(y)
    to 1, its gradient is that of the logarithm, which is near that of the logit margin: p itself has a gradient of
    1e-43 at a margin of 100.
    """
    rival = largest_other(logits, goal.y) if goal.target is None else logit_of(logits, goal.target)
    others = logits.scatter(1, goal.y[:, None], -torch.inf)
    return probability(torch.logaddexp(rival, others.logsumexp(1)) - logits.logsumexp(1))


def kl(logits: Tensor, goal: Goal) -> Tensor:
    """Return KL(reference || p), as in TRADES (Zhang et al., 2019); its gradient vanishes at the clean image."""
    if goal.target is not None:
        raise UsageError("`kl` does not support targeted attacks", "use `loss=ce`")
    assert goal.reference is not None
    return F.kl_div(logits.log_softmax(1), goal.reference, reduction="none").sum(1)


def largest_other(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the largest logit of any other class than that of each image."""
    return logits.scatter(1, classes[:, None], -torch.inf).amax(1)


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logit of a class of each image."""
    return logits.gather(1, classes[:, None]).squeeze(1)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "margin": margin,
    "gap": gap,
    "dlr": dlr,
    "pm": probability_margin,
    "kl": kl,
}
