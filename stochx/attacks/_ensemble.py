"""Ensembles of attacks: each one runs on the images that withstood the previous ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.attacks._run import AttackState
from stochx.engine.ascent import loss_value
from stochx.engine.losses import Goal, margin
from stochx.engine.threat import Ball


def run_in_sequence(
    attacks: Mapping[str, Attack], model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context
) -> Attempt:
    """Return the best point of all attacks for each image; `restart` is the index of the attack that found it.

    On a deterministic network each attack runs on the survivors of the previous ones. On a stochastic one no image is
    dropped: every attack sees every image, and `context.pick` chooses.
    """
    run, goal = AttackState(x, y, context), Goal(y, context.target)

    def value(points: Tensor) -> Tensor:
        return loss_value(model, points, goal[run.active], margin).loss

    for place, (name, attack) in enumerate(attacks.items()):
        if run.over:
            break
        active = run.active
        attempt = attack(model, x[active], y[active], ball, _restricted(context, active, run, name))
        run.count(attempt.forwards, 0 if attempt.backwards is None else attempt.backwards)
        run.finish(attempt.x, value, attempt.step, place)
    return run.attempt


def _restricted(context: Context, active: Tensor, run: AttackState, name: str) -> Context:
    """Restrict the context to the active images; every attack draws its own random starts."""
    wrong = context.wrong

    def wrong_active(points: Tensor, places: Tensor) -> Tensor:
        assert wrong is not None
        return wrong(points, active[places])

    return replace(
        context,
        keys=[f"{key}/{name}" for key in run.keys],
        target=None if context.target is None else context.target[active],
        wrong=None if wrong is None else wrong_active,
    )
