"""Robust accuracy at every radius, from the distance of each image to its nearest misclassified point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.engine.judging import Judge, Verdict
from stochx.engine.statistics import Estimate, dkw_half, wilson
from stochx.engine.threat import Ball
from stochx.errors import InputError

DOUBLINGS, HALVINGS = 3, 10  # of the distance along a ray, which is found to 1/512
KNOTS = 200  # most points of a curve in the result


@dataclass(frozen=True)
class Curve:
    """The distances d_i of N images, ascending: 0 where wrong without an attack, infinite where no attack succeeds.

    RA(eps) = #{d_i > eps} / N,  a step function
    """

    distances: Sequence[float]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Curve:
        """Return the curve of the worst case over all attacks, from stored records (dictionaries)."""
        nearest = [
            min(math.inf if outcome["distance"] is None else outcome["distance"] for outcome in r["attacks"].values())
            for r in records
        ]
        return cls(sorted(nearest))

    def at(self, eps: float) -> Estimate:
        """Return the robust accuracy at a radius with Wilson's interval, which holds for this radius alone."""
        return wilson(sum(d > eps for d in self.distances), len(self.distances))

    @property
    def knots(self) -> list[float]:
        """Radii where the accuracy falls, from 0 on; of many every k-th and the last."""
        falls = sorted({0.0, *(d for d in self.distances if math.isfinite(d))})
        return sorted({*falls[:: -(-len(falls) // (KNOTS - 1))], falls[-1]})

    @property
    def median(self) -> float | None:
        """The least radius at which at most half of the images stay correct; None if no attack gets so far."""
        middle = self.distances[(len(self.distances) - 1) // 2]
        return middle if math.isfinite(middle) else None

    @property
    def area(self) -> float:
        """The integral of the robust accuracy from 0 to the last knot; without unbroken images the mean distance."""
        return sum(min(d, self.knots[-1]) for d in self.distances) / len(self.distances)

    @property
    def band(self) -> float:
        """Half the width of the band that holds at all radii at once."""
        return dkw_half(len(self.distances))


@dataclass(frozen=True)
class ToTheEnd:
    """An attack that runs to its end, in the ball or not, and whose nearest point is judged anew.

    Its own logits, of which the luckiest draw may be one, have only chosen the direction: see `nearest_on_ray`.
    """

    method: Attack
    judge: Judge

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt:
        attempt = self.method(model, x, y, ball, replace(context, wrong=None))
        if attempt.nearest is None:
            name = type(self.method).__name__
            raise InputError(
                f"`{name}` declares `minimal`, but returns no nearest points", "return `Attempt(..., nearest=...)`"
            )
        nearest = nearest_on_ray(self.judge, x, attempt.nearest)
        moved, inside = (nearest != x).flatten(1).any(1), ball.holds(nearest, x)
        best = along(x, nearest, ball) if self.judge.noisy else nearest
        return replace(attempt, x=best.where((moved & inside).view(-1, 1, 1, 1), attempt.x), nearest=nearest)


def to_the_end(method: Attack, judge: Judge) -> Attack:
    """Return an attack of minimal norm as `ToTheEnd`, and any other one as it is."""
    return ToTheEnd(method, judge) if getattr(method, "minimal", False) else method


def nearest_on_ray(judge: Judge, x: Tensor, through: Tensor) -> Tensor:
    """Return where the ray from each x through another point becomes wrong (N, C, H, W); x where it stays right.

        clip(x + t (through - x)),  t in (0, 8] by bisection

    The verdict is the judge's, of a stochastic network that of most draws. They are the same for all t, and no attack
    has seen them. The point lies a last step beyond the boundary, where that is wrong too: on the boundary itself the
    verdict of another batch could differ by rounding.
    """
    way = through - x

    def point(t: Tensor) -> Tensor:
        return (x + t.view(-1, 1, 1, 1) * way).clamp(0, 1)

    def wrong(t: Tensor) -> Tensor:
        return misclassified(judge, judge.verdict(point(t), "radius")).to(x.device)

    low, high = torch.zeros_like(x[:, 0, 0, 0]), torch.ones_like(x[:, 0, 0, 0])
    found = wrong(high)
    for _ in range(DOUBLINGS):
        if found.all():
            break
        low, high = low.where(found, high), high.where(found, 2 * high)
        found = found | wrong(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        crossed = wrong(middle)
        low, high, found = low.where(crossed, middle), middle.where(crossed, high), found | crossed
    beyond = high * (1 + 2.0**-HALVINGS)
    return point(beyond.where(wrong(beyond), high)).where(found.view(-1, 1, 1, 1), x)


def along(x: Tensor, through: Tensor, ball: Ball) -> Tensor:
    """Return the point (N, C, H, W) where the ray from each x through another point leaves the ball.

    At the nearest point about half of the draws are wrong; on the way out there are more.
    """
    reach = ball.eps / ball.length(through, x).clamp(min=torch.finfo(x.dtype).tiny)
    return ball.project(x + reach.view(-1, 1, 1, 1) * (through - x), x)


def misclassified(judge: Judge, verdict: Verdict) -> Tensor:
    """Return a mask (N,), on the CPU, of what most draws misclassify, or classify as a target that is not its class."""
    if judge.target is None:
        return verdict.right < 0.5
    return (verdict.hit > 0.5) & (judge.y != judge.target).cpu()


def distances(
    judge: Judge, clean: Verdict, x: Tensor, ball: Ball, adv: Tensor, verdict: Verdict, nearest: Tensor | None
) -> list[float | None]:
    """Return the distance to the nearest misclassified point of each image that an attack has found, or None.

    It is 0 where the image itself is misclassified. A success at a fixed radius only lowers it. `nearest` are verified
    points, and the image itself where there is none.
    """
    found = torch.full(x.shape[:1], torch.inf, dtype=torch.float64)
    for points, wrong in ((adv, misclassified(judge, verdict)), (nearest, None)):
        if points is None:
            continue
        length = ball.length(points, x).cpu().double()
        inside = ball.holds(points, x).cpu()  # up to rounding, which must not undo a success at this radius
        length = length.where(~inside, length.clamp(max=ball.eps))
        found = found.minimum(length.where(length > 0 if wrong is None else wrong, torch.inf))
    found = found.where(clean.right >= 0.5, 0.0)
    return [d if math.isfinite(d) else None for d in found.tolist()]
