"""The state that iterated attacks share: the best point of each image, and the images that are still active."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.engine.gradients import finite, logits
from stochx.engine.losses import Goal
from stochx.engine.seeds import Key


class AttackState:
    """The best x' of each image so far, and the images that are still active.

    On a deterministic network an image is retired at its first misclassified point. On a stochastic one no image is
    retired: after each restart `context.pick` decides which candidate to keep.
    """

    def __init__(self, x: Tensor, y: Tensor, context: Context) -> None:
        self.x, self.y, self.context = x.clone(), y, context
        self.active = torch.arange(len(x), device=x.device)
        self.step, self.restart, self.forwards, self.backwards = (torch.zeros_like(y) for _ in range(4))
        self._score = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    @property
    def over(self) -> bool:
        """True once no image is active."""
        return not len(self.active)

    @property
    def keys(self) -> list[Key]:
        """Keys of the active images."""
        return [self.context.keys[n] for n in self.active.tolist()]

    def count(self, forwards: int | Tensor, backwards: int | Tensor = 0) -> None:
        """Add passes to the counts of every active image."""
        self.forwards[self.active] += forwards
        self.backwards[self.active] += backwards

    def misclassified(self, logits: Tensor) -> Tensor:
        """Return a mask (A,) of the active images that `logits` (A, K) misclassify, or classify as the target."""
        top, target = logits.argmax(1), self.context.target
        return top != self.y[self.active] if target is None else top == target[self.active]

    def leave(self, points: Tensor, logits: Tensor, step: int, restart: int, inside: Tensor | None = None) -> Tensor:
        """Retire the images that are misclassified at `points` (A, C, H, W); return a mask (A,) of those that stay.

        The attack's own `logits` (A, K) only select the candidates; `context.wrong` decides. Where points may lie
        outside the ball, `inside` (A,) says which do not.
        """
        stays = torch.ones_like(self.active, dtype=torch.bool)
        wrong = self.context.wrong
        if wrong is None or not self.context.judge_any:
            return stays
        suspect = self.misclassified(logits)
        places = (suspect if inside is None else suspect & inside).nonzero().flatten()
        if len(places):
            fooled = places[wrong(points[places], self.active[places])]
            self._keep(fooled, points, step, restart)
            stays[fooled] = False
            self.active = self.active[stays]
        return stays

    def lost(self, stays: Tensor) -> bool:
        """Return true if `leave`, which gave this mask, retired an image; the mask's values lie on the device."""
        return len(self.active) < len(stays)

    def finish(self, points: Tensor, value: Callable[[Tensor], Tensor], step: int | Tensor, restart: int) -> None:
        """End a restart: keep the `points` of active images that are more wrong than their best so far.

        `value(points)` (A,) is the loss, and is computed for deterministic networks only; stochastic ones are judged
        by `context.pick`. `step` is one number for all images, or (A,).
        """
        if self.over:
            return
        if self.context.pick is None:
            score, wrong = -value(points), self.context.wrong
            fooled = torch.zeros_like(score, dtype=torch.bool) if wrong is None else wrong(points, self.active)
            score = score.where(~fooled, -torch.inf)
        else:
            whole = self.x.clone()
            whole[self.active] = points
            score, fooled = self.context.pick(whole)[self.active], torch.zeros_like(self.active, dtype=torch.bool)
        better = (score < self._score[self.active]).nonzero().flatten()
        self._score[self.active[better]] = score[better]
        self._keep(better, points, step, restart)
        self.active = self.active[~fooled]

    def _keep(self, places: Tensor, points: Tensor, step: int | Tensor, restart: int) -> None:
        images = self.active[places]
        self.x[images] = points[places]
        self.step[images] = step[places] if isinstance(step, Tensor) else step
        self.restart[images] = restart

    @property
    def attempt(self) -> Attempt:
        """The best points so far, as the attack returns them."""
        return Attempt(self.x, self.step, self.restart, self.forwards, backwards=self.backwards)


def likely_classes(logits: Tensor, goal: Goal, count: int) -> Tensor:
    """Return the `count` most probable wrong classes (N, k), most probable first; only the target if there is one."""
    if goal.target is not None:
        return goal.target[:, None]
    others = logits.scatter(1, goal.y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]


def goal_of(model: nn.Module, x: Tensor, y: Tensor, context: Context, loss: str, eot: int = 1) -> Goal:
    """Return the goal of the attack; for `kl` with the clean images' probabilities, averaged over `eot` draws."""
    if loss != "kl":
        return Goal(y, context.target)
    reference = torch.stack([finite(logits(model, x)).softmax(1) for _ in range(eot)]).mean(0)
    return Goal(y, context.target, reference)
