"""Auto-PGD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.attacks._run import AttackState, likely_classes
from stochx.attacks._search import PACES, Pace, Search, keep_active, stages, start
from stochx.attacks._targets import by_distance
from stochx.engine.ascent import Evaluation, loss_gradient, loss_value
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.threat import Ball


@dataclass(frozen=True)
class APGD:
    """Auto-PGD: momentum, and a step per image that halves when progress stalls (Croce & Hein, 2020).

        z  <- project(x + length * ascent(gradient))
        x' <- project(x + 0.75 (z - x) + 0.25 (x - x before)),  length = 2 eps at first

    At each checkpoint the step halves, and the search returns to its best point, for images whose loss rose in no more
    than `rho` of the steps since the last checkpoint, or whose best loss and step both stayed the same. In L1 steps are
    sparse, without momentum, and the search starts in balls of three and two times the radius (Croce & Hein, 2021).
    There AutoAttack's code starts at a sparse point, takes steps as sparse, and rounds their number of values up
    (`density=0`): on a linear network this stops short of the optimum, which the default reaches.
    A `targeted-` loss runs once for each of `targets` wrong classes t, up z_t - z_y (`gap`), the same over the spread
    of the top logits (`dlr`), or p_t - p_y (`pm`); any wrong class counts. On a stochastic network every loss is the
    mean of `eot` draws.
    """

    iterated: ClassVar[bool] = True  # follows gradients over many steps
    examples: ClassVar[tuple[str, ...]] = ("steps=6,restarts=2",)  # settings that are tested

    steps: int = 100  # gradient steps
    loss: Literal["ce", "margin", "dlr", "pm", "targeted-gap", "targeted-dlr", "targeted-pm"] = "ce"  # loss to maximise
    targets: int = 9  # number of target classes (targeted losses)
    order: Literal["logit", "malt"] = "logit"  # targets are the most probable, or the nearest by linearised boundary
    candidates: int = 100  # most probable wrong classes that are put in order, with a gradient each (order=malt)
    restarts: int = 1  # random restarts; the strongest counts for each image
    rho: float = 0.75  # halve the step unless the loss rose in more than this share of the steps
    density: float = 0.2  # L1: share of the values that first steps change; 0: AutoAttack's rule
    eot: int = 0  # draws of a stochastic network averaged per gradient; 0: as many as it needs
    estimand: Literal["mean", "vote"] = "mean"  # mean loss of single draws, or loss of their mean probabilities

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 1 or self.candidates < 1:
            raise ValueError("steps, restarts, targets and candidates must be at least 1")
        if self.eot < 0:
            raise ValueError("eot must not be negative")
        if not 0 < self.rho <= 1:
            raise ValueError("rho must lie in (0, 1]")
        if not 0 <= self.density <= 1:
            raise ValueError("density must lie in [0, 1]")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        run, index = AttackState(x, y, context), 0
        for goal in self._goals(model, x, ball, run):
            for _ in range(self.restarts):
                if not run.over:
                    self._restart(model, x, goal, ball, run, index)
                index += 1
        return run.attempt

    def _goals(self, model: nn.Module, x: Tensor, ball: Ball, run: AttackState) -> Iterator[Goal]:
        """Yield one goal, or one per target class; any wrong class still counts unless the context names one."""
        goal = Goal(run.y, run.context.target)
        if not self.loss.startswith("targeted-") or goal.target is not None:
            yield goal
            return
        eot = self.eot or run.context.eot
        logits = loss_value(model, x, goal, LOSSES["margin"], eot).logits
        classes = likely_classes(logits, goal, self.targets if self.order == "logit" else self.candidates)
        if self.order == "malt":
            classes = by_distance(model, x, goal, classes, ball, eot)
            run.count(eot * classes.shape[1], eot * classes.shape[1])
        for target in classes[:, : self.targets].T:
            yield Goal(run.y, target)

    def _restart(self, model: nn.Module, x: Tensor, goal: Goal, ball: Ball, run: AttackState, index: int) -> None:
        """Run one search from a random point; points of a wider ball are not judged."""
        loss, eot = LOSSES[self.loss.removeprefix("targeted-")], self.eot or run.context.eot

        def climb(points: Tensor) -> Evaluation:
            evaluation = loss_gradient(model, points, goal[run.active], loss, eot, self.estimand)
            run.count(evaluation.forwards, evaluation.backwards)
            return evaluation

        done, balls = 0, stages(ball, self.steps)
        points = start(x[run.active], balls[0][0], run.keys, index, self.density)
        for region, steps in balls:
            points = region.project(points, x[run.active]) if done else points
            search = Search.begin(x[run.active], points, climb(points))
            pace: Pace = PACES[ball.norm].begin(search, region, steps, self.rho, self.density)
            for step in range(steps + 1):
                if region == ball:
                    stays = run.leave(search.points, search.logits, done + step, index)
                    if run.over:
                        return
                    if run.lost(stays):
                        search, pace = keep_active(search, stays), keep_active(pace, stays)
                pace.check(search, step)
                if step < steps:
                    points = pace.next(search)
                    evaluation = climb(points)
                    pace.record(search, evaluation)
                    search.move(points, evaluation)
            points, done = search.best, done + steps
        run.finish(points, lambda _: search.top, done, index)
