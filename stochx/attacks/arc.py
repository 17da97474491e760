"""ARC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState, likely_classes
from stochx.engine.ascent import loss_gradient
from stochx.engine.gradients import finite, logits, predictions
from stochx.engine.losses import Goal, gap
from stochx.engine.network.ensemble import RandomEnsemble, ensemble_of
from stochx.engine.threat import DUALS, Ball, norm_of
from stochx.errors import UsageError

TINY, ROUNDING = 1e-10, 1e-6


@dataclass(frozen=True)
class ARC:
    """Attack on randomised ensembles that steps across one member's boundary after another (Dbouk & Shanbhag, 2022).

        d' = beta (d + beta_i g) / ||d + beta_i g||,  kept if the expected accuracy at project(x + d + d') is no higher

    In each step every member, the likeliest first, gives the unit step g to its nearest linearised boundary, at the
    distance zeta: beta_i = beta for the first member and where zeta >= beta, else

        beta_i = beta / (beta - zeta) |zeta + <w, d> / ||w||*| + rho,

    enough to cross that boundary beside the step d for the members before. The expected accuracy is exact: the sum of
    the chances of the members that are right. The gradient of a mean loss, which `pgd` follows, may vanish where
    members disagree, and the image survives. Raises `UsageError` for a network that is no randomised ensemble.
    """

    needs_ensemble: ClassVar[bool] = True  # attacks randomised ensembles alone
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")  # supported norms
    examples: ClassVar[tuple[str, ...]] = ("steps=3",)  # settings that are tested

    steps: int = 20  # rounds over the members
    beta: float = 1.0  # length of the step of a round, as a fraction of eps
    rho: float = 0.05  # distance beyond a boundary, as a fraction of eps
    candidates: int = 0  # most probable other classes of a member to consider; 0 means all

    def __post_init__(self) -> None:
        if self.steps < 1 or self.candidates < 0:
            raise ValueError("steps must be at least 1, and candidates must not be negative")
        if self.beta <= 0 or self.rho < 0:
            raise ValueError("beta must be positive, and rho must not be negative")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        if ball.norm not in self.norms:
            raise UsageError(f"`arc` does not support the norm `{ball.norm}`", "use `--norm linf` or `l2`")
        ensemble = ensemble_of(model)
        if ensemble is None:
            raise UsageError(
                "`arc` attacks randomised ensembles, and this network is none",
                "name one as `a.safetensors+b.safetensors`, or use `pgd`",
            )
        run, goal = AttackState(x, y, context), Goal(y, context.target)
        order = sorted(range(len(ensemble.members)), key=lambda i: -ensemble.chances[i])
        score = expected(ensemble, x, goal)
        floor = ROUNDING - (goal.target is not None)  # no member is right, or all predict the target
        run.count(len(order))
        for step in range(1, self.steps + 1):
            run.active = run.active[score[run.active] > floor]
            if run.over:
                break
            at, center = run.x[run.active], x[run.active]
            moved, best = self._round(ensemble, order, at, center, goal[run.active], score[run.active], ball, run)
            points = ball.project(at + moved, center)
            changed = run.active[(points != at).flatten(1).any(1)]
            run.x[run.active], score[run.active] = points, best
            run.step[changed] = step
        return run.attempt

    def _round(
        self,
        ensemble: RandomEnsemble,
        order: list[int],
        at: Tensor,
        center: Tensor,
        goal: Goal,
        score: Tensor,
        ball: Ball,
        run: AttackState,
    ) -> tuple[Tensor, Tensor]:
        """Return the step (A, C, H, W) from points `at` over all members, and the expected accuracy (A,) after it."""
        way, beta, rho = torch.zeros_like(at), self.beta * ball.eps, self.rho * ball.eps
        for place, i in enumerate(order):
            zeta, normal, count = self._nearest(ensemble.members[i], at + way, goal, ball)
            crossing = zeta + (normal * way).flatten(1).sum(1)
            length = torch.full_like(zeta, beta)
            if place:
                length = torch.where(zeta < beta, beta / (beta - zeta + TINY) * crossing.abs() + rho, length)
            new = way + length.view(-1, 1, 1, 1) * ball.ascent(-normal)
            new = new * (beta / norm_of(new.flatten(1), ball.norm).clamp(min=TINY)).view(-1, 1, 1, 1)
            found = expected(ensemble, ball.project(at + new, center), goal)
            run.count(1 + count + len(order), count)
            kept = found <= score
            way, score = torch.where(kept.view(-1, 1, 1, 1), new, way), score.minimum(found)
        return way, score

    def _nearest(self, member: nn.Module, points: Tensor, goal: Goal, ball: Ball) -> tuple[Tensor, Tensor, int]:
        """Return the distance (A,) to the nearest linearised boundary of a member, w / ||w||* of it, and the gradients.

        w is the gradient of the predicted logit minus the other one; for a target, that is the only other one.
        """
        out = finite(logits(member, points))
        top = out.argmax(1)
        others = likely_classes(out, Goal(top, goal.target), self.candidates or out.shape[1])
        count = others.shape[1]
        rows = Goal(top.repeat_interleave(count), others.flatten())
        found = loss_gradient(member, points.repeat_interleave(count, 0), rows, gap)
        steep = norm_of(found.gradient.flatten(1), DUALS[ball.norm]).view(-1, count) + TINY
        zeta, nearest = (found.loss.view(-1, count).abs() / steep).min(1)
        each = torch.arange(len(points), device=points.device)
        slope = found.gradient.view(len(points), count, *points.shape[1:])[each, nearest]
        return zeta, -slope / steep[each, nearest].view(-1, 1, 1, 1), count


def expected(ensemble: RandomEnsemble, x: Tensor, goal: Goal) -> Tensor:
    """Return the expected accuracy (N,) on x, or minus the chance of the target: a sum of the members' chances."""
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for member, chance in zip(ensemble.members, ensemble.chances, strict=True):
        top = predictions(member, x)
        total = total + (chance * (top == goal.y) if goal.target is None else -chance * (top == goal.target))
    return total
