"""The call of every attack: with checked arguments and a judge, in torch's plain modes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, get_args, overload

from torch import Tensor, nn

from stochx.attacks import Attempt, Context
from stochx.checked_entries import check_kind
from stochx.engine.arguments import (
    Arguments,
    Classes,
    Keys,
    are_ready,
    check_arguments,
    check_model,
    first_of,
)
from stochx.engine.expectation import IMAGES, needed_draws
from stochx.engine.judging import Judge
from stochx.engine.modes import is_inside, plain_modes
from stochx.engine.threat import Ball, Norm
from stochx.errors import InputError, RunError, UsageError, suggest

if TYPE_CHECKING:
    from stochx.attacks import Attack

DRAWS = 32  # of a stochastic network, which choose among the candidates of an attack


class CheckedCall:
    """First base of an entry: checks arguments before its formula, and passes on those of calls within stochx."""

    @overload
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt: ...

    @overload
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Classes | None = None,
        eps: float = 8 / 255,
        norm: Norm = "linf",
        *,
        target: Classes | None = None,
        source: nn.Module | None = None,
        keys: Keys | None = None,
    ) -> Attempt: ...

    def __call__(  # type: ignore[misc]  # a ball and a context may also stand in the places of eps and norm
        self,
        model: nn.Module,
        x: Tensor,
        y: Classes | None = None,
        eps: float | Ball = 8 / 255,
        norm: Norm | Context = "linf",
        *,
        target: Classes | None = None,
        source: nn.Module | None = None,
        keys: Keys | None = None,
        ball: Ball | None = None,
        context: Context | None = None,
    ) -> Attempt:
        """Attack images x (N, C, H, W) in [0, 1], or one image (C, H, W), within `eps` of them in a norm.

        `y` holds their labels, one for all or one for each; without it, what the network predicts. With `target` the
        attack aims at these classes, otherwise at any other one. `source` is the network that `transfer` crafts on.
        `keys`, one per image, seed random starts. The network's logits judge; of a stochastic one the mean of several
        draws. Raises `StochxError` for what cannot be used.
        """
        formula: Attack = super().__call__  # type: ignore[misc]
        ball = eps if isinstance(eps, Ball) else ball or Ball(_checked_eps(eps, norm), _checked_norm(norm))
        context = norm if isinstance(norm, Context) else context
        if is_inside() and are_ready(x, y) and context is not None:
            return _checked(self, formula(model, x, y, ball, context), x)  # type: ignore[arg-type]
        with plain_modes():
            given = check_arguments(model, x, keys if context is None else context.keys, pixels=True)
            labels = given.class_indices(y, "y")
            if context is None:
                goal = None if target is None else given.class_indices(target)
                context = _context(given, labels, goal, ball, None if source is None else check_model(source))
            attempt = _checked(self, formula(given.model, given.x, labels, ball, context), given.x)
        if not ball.holds(attempt.x, given.x).all():
            raise RunError(
                f"`{type(self).__name__}` left the ball", "this is a bug in the attack: `ball.project(x', x)`"
            )
        return first_of(attempt) if given.alone else attempt


def _context(given: Arguments, y: Tensor, target: Tensor | None, ball: Ball, source: nn.Module | None) -> Context:
    """Return a context in which the network judges: at every point, or by draws if it is stochastic."""
    noisy = given.noise != "none"
    judge = Judge(given.model, y, target, DRAWS, 0, "/".join(map(str, given.keys)), noisy)
    eot = needed_draws(given.model, given.x[:IMAGES], y[:IMAGES], ball, 0).draws if noisy else 1
    return replace(Context.judged_by(judge, given.keys, eot), source=source)


def _checked_eps(eps: object, norm: object) -> float:
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not (math.isfinite(eps) and eps >= 0):
        raise UsageError(f"`eps` is `{eps!r:.40}`", "give the radius of the ball as a number, such as 8 / 255")
    if norm == "linf" and eps > 1:
        raise UsageError(f"`eps` is {eps:g}, but pixels lie in [0, 1]", f"write `{eps:g} / 255`")
    return float(eps)


def _checked_norm(norm: object) -> Norm:
    for known in get_args(Norm):
        if norm == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"unknown norm `{norm!r:.40}`", suggest(str(norm), get_args(Norm)))


def _checked(attack: object, result: object, x: Tensor) -> Attempt:
    """Return the attempt on x (N, C, H, W); raises `InputError`, which names the attack, for anything else."""
    name, attempt = type(attack).__name__, check_kind(attack, result, Attempt)
    if attempt.x.shape != x.shape:
        raise InputError(
            f"`{name}` returns {tuple(attempt.x.shape)} for images {tuple(x.shape)}", "keep the shape of x"
        )
    for part in ("step", "restart", "forwards"):
        if getattr(attempt, part).shape != x.shape[:1]:
            raise InputError(f"`{name}` returns a `{part}` that is not one number per image", "give (N,)")
    return attempt
