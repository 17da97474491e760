"""Images that are still right: what every iterated attack keeps, and how it lets the others go."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.engine.gradients import logits
from stochx.engine.losses import Goal
from stochx.engine.seeds import Key


class AttackState:
    """The best x' of each image so far, and which images are still worked on.

    On a deterministic network an image that is wrong leaves at once, at whatever point it is. On a stochastic one
    nothing leaves: after each restart the candidate that the choosing draws find worst is kept.
    """

    def __init__(self, x: Tensor, y: Tensor, context: Context) -> None:
        self.x, self.y, self.context = x.clone(), y, context
        self.active = torch.arange(len(x), device=x.device)
        self.step, self.restart, self.forwards = (torch.zeros_like(y) for _ in range(3))
        self._score = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    @property
    def over(self) -> bool:
        """Whether no image is left."""
        return not len(self.active)

    @property
    def keys(self) -> list[Key]:
        """The keys of the active images."""
        return [self.context.keys[n] for n in self.active.tolist()]

    def count(self, forwards: int | Tensor) -> None:
        """Every active image has been passed through the network so often."""
        self.forwards[self.active] += forwards

    def leave(self, points: Tensor, said: Tensor, step: int, restart: int) -> Tensor:
        """Let the images go that are wrong at their `points` (A, C, H, W) already; which stay, (A,) booleans.

        What the attack's own logits `said` (A, K) only names the suspects: the context's verdict decides.
        """
        stays = torch.ones_like(self.active, dtype=torch.bool)
        wrong, target = self.context.wrong, self.context.target
        if wrong is None or not self.context.judge_any:
            return stays
        top = said.argmax(1)
        suspect = top != self.y[self.active] if target is None else top == target[self.active]
        places = suspect.nonzero().flatten()
        if len(places):
            fooled = places[wrong(points[places], self.active[places])]
            self._keep(fooled, points, step, restart)
            stays[fooled] = False
            self.active = self.active[stays]
        return stays

    def finish(self, points: Tensor, value: Callable[[Tensor], Tensor], step: int | Tensor, restart: int) -> None:
        """The end of a restart: keep the `points` of active images that are more wrong than what they had.

        `value(points)` (A,) is the loss; it is asked only of a deterministic network, a stochastic one is judged by
        the choosing draws. `step` is that of all, or (A,).
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
        """What was found."""
        return Attempt(self.x, self.step, self.restart, self.forwards)


def goal_of(model: nn.Module, x: Tensor, y: Tensor, context: Context, loss: str, eot: int = 1) -> Goal:
    """What the context wants of the images; for `kl` with the probabilities of the unchanged ones, over `eot` draws."""
    if loss != "kl":
        return Goal(y, context.target)
    reference = torch.stack([logits(model, x).softmax(1) for _ in range(eot)]).mean(0)
    return Goal(y, context.target, reference)
