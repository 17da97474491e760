"""Several attacks as one: each is tried on what withstood those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_value
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import Ball


def one_after_the_other(
    attacks: Mapping[str, Attack], model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context
) -> Attempt:
    """The best of all attacks for each image; `restart` of the attempt is the place of the attack that found it.

    On a deterministic network each sees the survivors of those before. On a stochastic one nothing is dropped: every
    attack sees every image, and the context's choosing draws pick.
    """
    run, goal = AttackState(x, y, context), Goal(y, context.target)

    def value(points: Tensor) -> Tensor:
        return loss_value(model, points, goal[run.active], margin).loss

    for place, (name, attack) in enumerate(attacks.items()):
        if run.over:
            break
        active = run.active
        found = attack(model, x[active], y[active], ball, _of_some(context, active, run, name))
        run.count(found.forwards)
        run.finish(found.x, value, found.step, place)
    return run.attempt


def _of_some(context: Context, active: Tensor, run: AttackState, name: str) -> Context:
    """The context of some of the images; every attack draws its own random starts."""
    wrong = context.wrong

    def wrong_of_some(points: Tensor, places: Tensor) -> Tensor:
        assert wrong is not None
        return wrong(points, active[places])

    return replace(
        context,
        keys=[f"{key}/{name}" for key in run.keys],
        target=None if context.target is None else context.target[active],
        wrong=None if wrong is None else wrong_of_some,
    )
