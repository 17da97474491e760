"""Proposals of the square attack: position and content of the squares, vectorised over images.

Random numbers `u` (A, 5 + C) in [0, 1) determine a proposal: two positions (y, x, y, x), a rotation, and a sign per
channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator
from stochx.engine.threat import Ball, norm_of

NUMBERS = 5  # per proposal, plus one per channel
TINY = 1e-12
GRID = 5  # tiles per side of an L2 start


def stripes(x: Tensor, keys: Sequence[Key], ball: Ball) -> Tensor:
    """Return the starting point in Linf: columns of +-eps, drawn for each channel."""
    count, channels, _, width = x.shape
    numbers = _uniform(x, keys, "stripes", channels * width).view(count, channels, 1, width)
    return x + ball.eps * _signs(numbers)


def tiles(x: Tensor, keys: Sequence[Key], ball: Ball) -> Tensor:
    """Return the starting point in L2: a grid of two-sided bumps of length eps."""
    count, channels, height, width = x.shape
    side = max(1, min(height, width) // GRID)
    numbers = _uniform(x, keys, "tiles", (channels + 1) * GRID * GRID).view(count, channels + 1, GRID, GRID)
    bump = two_sided(side).to(x.dtype).to(x.device)
    rows, columns = (_tiled(length, side, x.device) for length in (height, width))
    of_tile = numbers[:, :, rows[0].clamp(0, GRID - 1)][..., columns[0].clamp(0, GRID - 1)]
    inside = ((rows[0] >= 0) & (rows[0] < GRID))[:, None] & ((columns[0] >= 0) & (columns[0] < GRID))
    plain = bump[rows[1]][:, columns[1]]
    turned = bump.T[rows[1]][:, columns[1]]
    delta = turned.where(of_tile[:, :1] < 0.5, plain) * inside * _signs(of_tile[:, 1:])
    return x + ball.eps * ball.ascent(delta)


def coloured(center: Tensor, best: Tensor, ball: Ball, side: int, u: Tensor) -> Tensor:
    """Set one square to +-eps in each channel (Linf)."""
    side = min(side, *center.shape[2:])
    inside = _inside(_place(u[:, :2], side, center), side, center)
    return (center + ball.eps * _signs(u[:, NUMBERS:, None, None])).where(inside, best)


def moved(center: Tensor, best: Tensor, ball: Ball, side: int, u: Tensor) -> Tensor:
    """Move the perturbation of two squares into the first and add a two-sided bump (L2)."""
    side = min(max(side, 3), *center.shape[2:])
    side -= 1 - side % 2
    place = _place(u[:, :2], side, center)
    first = _inside(place, side, center)
    both = first | _inside(_place(u[:, 2:4], side, center), side, center)
    delta = best - center
    spare = (ball.eps**2 - _squared(delta, (1, 2, 3))).clamp(min=0) / delta.shape[1]
    mass = (spare + _squared(delta * both, (2, 3))).sqrt()
    old = delta * first
    bump = _bump_at(place, side, u[:, 4], center) * _signs(u[:, NUMBERS:, None, None])
    new = _unit(_unit(old) + bump * first) * mass
    return center + ball.eps * ball.ascent(new.where(both, delta))


@cache
def two_sided(side: int) -> Tensor:
    """Return a positive beside a negative bump, (side, side), of length 1 (eq. 3, as in the authors' code)."""
    upper, lower = _pyramid(side // 2, side), _pyramid(side - side // 2, side)
    both = torch.cat([upper, -lower])
    return both / norm_of(both.flatten()[None], "l2")


def _pyramid(height: int, width: int) -> Tensor:
    """Return, for each cell, the sum of 1 / (k + 1)^2 over the centred rectangles k that contain it, of length 1."""
    if not height:
        return torch.zeros(0, width, dtype=torch.float64)
    rows, columns = (torch.arange(n).sub(n // 2).abs() for n in (height, width))
    ring = torch.maximum(rows[:, None], columns)
    shares = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** 2
    pyramid = shares.flip(0).cumsum(0).flip(0)[ring]
    return pyramid / norm_of(pyramid.flatten()[None], "l2")


def _uniform(like: Tensor, keys: Sequence[Key], what: str, count: int) -> Tensor:
    rows = [torch.rand(count, generator=generator(key, what, device=like.device), device=like.device) for key in keys]
    return torch.stack(rows).to(like)


def _signs(u: Tensor) -> Tensor:
    return torch.where(u < 0.5, -1.0, 1.0).to(u)


def _place(u: Tensor, side: int, like: Tensor) -> Tensor:
    """Return the top-left corners (A, 2) of squares inside the image, uniformly distributed."""
    room = torch.tensor(like.shape[2:], device=u.device) - side
    return (u * (room + 1)).long().minimum(room)


def _inside(place: Tensor, side: int, like: Tensor) -> Tensor:
    """Return the mask (A, 1, H, W) of the pixels that the squares cover."""
    rows, columns = ((r >= 0) & (r < side) for r in _local(place, like))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _bump_at(place: Tensor, side: int, turn: Tensor, like: Tensor) -> Tensor:
    """Return the two-sided bump at each position, rotated or not: (A, 1, H, W), valid inside the squares only."""
    rows, columns = (r.clamp(0, side - 1) for r in _local(place, like))
    bump = two_sided(side).to(like.dtype).to(like.device)
    upright = bump[rows[:, :, None], columns[:, None, :]]
    return bump.T[rows[:, :, None], columns[:, None, :]].where(turn[:, None, None] < 0.5, upright)[:, None]


def _local(place: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column indices relative to each square's corner: (A, H) and (A, W)."""
    rows, columns = (torch.arange(n, device=like.device) for n in like.shape[2:])
    return rows - place[:, :1], columns - place[:, 1:]


def _tiled(length: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return, for each of `length` cells, its tile and its position in the tile; the grid is centred."""
    cells = torch.arange(length, device=device) - (length - side * GRID) // 2
    return cells.div(side, rounding_mode="floor"), cells % side


def _squared(values: Tensor, over: tuple[int, ...]) -> Tensor:
    return values.square().sum(over, keepdim=True)


def _unit(values: Tensor) -> Tensor:
    """Scale every channel to length 1."""
    return values / (_squared(values, (2, 3)).sqrt() + TINY)
