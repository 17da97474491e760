"""Proposals of the square attack: position and content of the squares, vectorised over images.

Random numbers `u` (A, 5 + C) in [0, 1) determine a proposal: two positions (y, x, y, x), a rotation, and a sign per
channel. A proposal lies in the ball and in [0, 1]. Squares are the places (A, C, side^2) of their pixels, so that the
work grows with the square and not with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator
from stochx.engine.threat import Ball, Norm

NUMBERS = 5  # per proposal, plus one per channel
TINY = 1e-12
GRID = 5  # tiles per side of an L2 or L1 start
POWERS: dict[Norm, int] = {"l2": 2, "l1": 1}
FADES: dict[Norm, int] = {"l2": 2, "l1": 4}  # ring k of a bump weighs 1 / (k + 1)^2 or 1 / (k + 1)^4


def stripes(x: Tensor, keys: Sequence[Key], ball: Ball) -> Tensor:
    """Return the starting point in Linf: columns of +-eps, drawn for each channel."""
    count, channels, _, width = x.shape
    numbers = _uniform(x, keys, "stripes", channels * width).view(count, channels, 1, width)
    return (x + ball.eps * _signs(numbers)).clamp(0, 1)


def tiles(x: Tensor, keys: Sequence[Key], ball: Ball) -> Tensor:
    """Return the starting point in L2 and L1: a grid of two-sided bumps, brought to length eps."""
    count, channels, height, width = x.shape
    side = max(1, min(height, width) // GRID)
    numbers = _uniform(x, keys, "tiles", (channels + 1) * GRID * GRID).view(count, channels + 1, GRID, GRID)
    bump = two_sided(side, ball.norm).to(x)
    rows, columns = (_tiled(length, side, x.device) for length in (height, width))
    of_tile = numbers[:, :, rows[0].clamp(0, GRID - 1)][..., columns[0].clamp(0, GRID - 1)]
    inside = ((rows[0] >= 0) & (rows[0] < GRID))[:, None] & ((columns[0] >= 0) & (columns[0] < GRID))
    plain = bump[rows[1]][:, columns[1]]
    turned = bump.T[rows[1]][:, columns[1]]
    return _in_ball(turned.where(of_tile[:, :1] < 0.5, plain) * inside * _signs(of_tile[:, 1:]), x, ball)


def coloured(center: Tensor, best: Tensor, ball: Ball, side: int, u: Tensor) -> Tensor:
    """Set one square to +-eps in each channel (Linf)."""
    square = _square(u[:, :2], min(side, *center.shape[2:]), center)
    values = (center.flatten(2).gather(2, square) + ball.eps * _signs(u[:, NUMBERS:, None])).clamp(0, 1)
    return best.flatten(2).scatter(2, square, values).view_as(best)


def moved(center: Tensor, best: Tensor, ball: Ball, side: int, u: Tensor) -> Tensor:
    """Move the perturbation of two squares into the first and add a two-sided bump (L2 and L1).

    Each channel of the first square gets the length of both, in the norm's own power, and an equal share of the radius
    that is left; in L1 times the number of channels, before the projection (Croce & Hein, 2021).
    """
    side = max(side, 3)
    side = min(side + 1 - side % 2, *center.shape[2:])
    first, second = (_square(u[:, k : k + 2], side, center) for k in (0, 2))
    power, channels, delta = POWERS[ball.norm], center.shape[1], (best - center).flatten(2)
    spare = (ball.eps**power - _mass(delta.flatten(1), power)).clamp(min=0)[:, None]
    old = delta.gather(2, first)
    delta.scatter_(2, first, 0.0)
    mass = spare / channels + _mass(old, power) + _mass(delta.gather(2, second), power)
    mass = (mass * channels if ball.norm == "l1" else mass) ** (1 / power)
    bump = two_sided(side, ball.norm).to(center)
    turned = torch.where(u[:, 4, None] < 0.5, bump.T.flatten(), bump.flatten())[:, None]
    new = _unit(_unit(old, power) + turned * _signs(u[:, NUMBERS:, None]), power) * mass
    delta.scatter_(2, second, 0.0).scatter_(2, first, new)
    return _in_ball(delta.view_as(center), center, ball)


@cache
def two_sided(side: int, norm: Norm) -> Tensor:
    """Return a positive beside a negative bump, (side, side), of length 1 (eq. 3, as in the authors' code)."""
    upper, lower = _pyramid(side // 2, side, norm), _pyramid(side - side // 2, side, norm)
    return _unit(torch.cat([upper, -lower]).flatten(), POWERS[norm]).view(side, side)


def _pyramid(height: int, width: int, norm: Norm) -> Tensor:
    """Return, for each cell, the weights of the centred rectangles k that contain it, summed, of length 1."""
    if not height:
        return torch.zeros(0, width, dtype=torch.float64)
    rows, columns = (torch.arange(n).sub(n // 2).abs() for n in (height, width))
    ring = torch.maximum(rows[:, None], columns)
    shares = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** FADES[norm]
    pyramid = shares.flip(0).cumsum(0).flip(0)[ring]
    return _unit(pyramid.flatten(), POWERS[norm]).view(height, width)


def _uniform(like: Tensor, keys: Sequence[Key], what: str, count: int) -> Tensor:
    rows = [torch.rand(count, generator=generator(key, what, device=like.device), device=like.device) for key in keys]
    return torch.stack(rows).to(like)


def _signs(u: Tensor) -> Tensor:
    return torch.where(u < 0.5, -1.0, 1.0).to(u)


def _square(u: Tensor, side: int, like: Tensor) -> Tensor:
    """Return the places (A, C, side^2) of squares at `u` (A, 2) of the way from the first corner to the last."""
    height, width = like.shape[2:]
    row, column = ((u[:, k] * (n - side + 1)).long().clamp(max=n - side) for k, n in enumerate((height, width)))
    near = torch.arange(side, device=u.device)
    local = (near[:, None] * width + near).flatten()
    return ((row * width + column)[:, None] + local)[:, None].expand(-1, like.shape[1], -1)


def _tiled(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, for each of `length` cells, its tile and its position in the tile; the grid is centred."""
    cells = torch.arange(length, device=device) - (length - side * GRID) // 2
    return cells.div(side, rounding_mode="floor"), cells % side


def _in_ball(delta: Tensor, center: Tensor, ball: Ball) -> Tensor:
    """Return the points in the ball and in [0, 1]; in L2 at length eps before [0, 1] cuts them off."""
    if ball.norm == "l1":
        return ball.project(center + delta, center)
    length = _length(delta.flatten(1), 2).view(-1, 1, 1, 1) + TINY
    return (center + delta * (ball.eps / length)).clamp(0, 1)


def _length(values: Tensor, power: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, power, dim=-1, keepdim=True)
    return length


def _mass(values: Tensor, power: int) -> Tensor:
    """Return the sum of |values|^power over the last axis, which stays."""
    return _length(values, power).pow(power)


def _unit(values: Tensor, power: int) -> Tensor:
    """Scale to length 1 along the last axis."""
    return values / (_length(values, power) + TINY)
