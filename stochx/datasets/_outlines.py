"""Sixteen outlines as signed distances: negative inside, zero on the edge, within the unit circle.

No two are equal up to rotation, and all are distinguishable at a radius of six pixels. Formulas after Inigo Quilez.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Distance = Callable[[Array, Array], Array]


def disc(x: Array, y: Array, radius: float = 1.0, cx: float = 0.0, cy: float = 0.0) -> Array:
    """Return the distance to a disc."""
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def _box(x: Array, y: Array, width: float, height: float, cx: float = 0.0, cy: float = 0.0) -> Array:
    """Return the distance to an upright box, given its half sides."""
    dx, dy = np.abs(x - cx) - width, np.abs(y - cy) - height
    outside: Array = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
    inside: Array = np.minimum(np.maximum(dx, dy), 0)
    return outside + inside


def _polygon(corners: Sequence[tuple[float, float]]) -> Distance:
    """Return the distance to a simple polygon: that of the nearest edge, with the sign from counting crossings."""

    def distance(x: Array, y: Array) -> Array:
        nearest = np.full_like(x, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (px - t * ex) ** 2 + (py - t * ey) ** 2)
            if ey:
                inside ^= ((y >= ay) != (y >= by)) & (px < py * (ex / ey))
        return np.where(inside, -1, 1).astype(x.dtype) * np.sqrt(nearest)

    return distance


def _regular(count: int, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Return corners at even angles from the top, with repeating radii."""
    angles = np.arange(count) * (2 * np.pi / count) + np.pi / 2
    return [
        (float(radii[i % len(radii)] * np.cos(a)), float(radii[i % len(radii)] * np.sin(a)))
        for i, a in enumerate(angles)
    ]


def _ring(x: Array, y: Array) -> Array:
    return np.abs(disc(x, y, 0.76)) - 0.24


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.95, 0.29), _box(x, y, 0.29, 0.95))


def _heart(x: Array, y: Array) -> Array:
    """Return the distance to a heart: a square on its corner with two half discs on its upper sides."""
    side = 0.52  # half the side of the square
    u, v = (x + y + 0.2) * 0.5**0.5, (y + 0.2 - x) * 0.5**0.5
    return np.minimum(_box(u, v, side, side), np.minimum(disc(u, v, side, side, 0), disc(u, v, side, 0, side)))


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(disc(x, y), -disc(x, y, 0.82, 0.45, 0))


def _bar(x: Array, y: Array) -> Array:
    return _box(x, y, 0.7, 0.05) - 0.22


def _drop(x: Array, y: Array) -> Array:
    """Return the distance to a drop: a disc and the two tangents to it from the tip."""
    radius, tip, low = 0.52, 1.0, -0.44
    x, y, height = np.abs(x), y - low, tip - low
    sine = radius / height
    cosine = (1 - sine**2) ** 0.5
    along = y * cosine - x * sine  # the tangent extends from 0 to height * cosine
    side = np.where(along > height * cosine, disc(x, y, 0, 0, height), x * cosine + y * sine - radius)
    return np.where(along < 0, disc(x, y, radius), side)


def _trefoil(x: Array, y: Array) -> Array:
    top, left, right = (disc(x, y, 0.47, cx, cy) for cx, cy in _regular(3, [0.53]))
    return np.minimum(np.minimum(top, left), right)


def _horseshoe(x: Array, y: Array) -> Array:
    """Return the distance to a half ring with two straight legs."""
    middle = np.where(y > 0, disc(x, y, 0.62), np.abs(x) - 0.62)
    arch: Array = np.maximum(np.abs(middle) - 0.23, -y - 0.5)
    return arch


OUTLINES: dict[str, Distance] = {
    "disc": disc,
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "triangle": _polygon(_regular(3, [1.0])),
    "star": _polygon(_regular(10, [1.0, 0.42])),
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "bar": _bar,
    "arrow": _polygon([(0, 1), (-0.8, 0.15), (-0.28, 0.15), (-0.28, -0.9), (0.28, -0.9), (0.28, 0.15), (0.8, 0.15)]),
    "drop": _drop,
    "trefoil": _trefoil,
    "hourglass": _polygon([(-0.68, 0.73), (0.68, 0.73), (0.12, 0), (0.68, -0.73), (-0.68, -0.73), (-0.12, 0)]),
    "horseshoe": _horseshoe,
    "tee": _polygon(
        [
            (-0.68, 0.7),
            (0.68, 0.7),
            (0.68, 0.26),
            (0.22, 0.26),
            (0.22, -0.94),
            (-0.22, -0.94),
            (-0.22, 0.26),
            (-0.68, 0.26),
        ]
    ),
    "zigzag": _polygon(
        [(-0.85, 0.5), (0.3, 0.5), (0.3, -0.1), (0.85, -0.1), (0.85, -0.5), (-0.3, -0.5), (-0.3, 0.1), (-0.85, 0.1)]
    ),
}
NAMES = tuple(OUTLINES)


@cache
def area(name: str) -> float:
    """Return the area of an outline; that of the unit circle is pi."""
    side = (np.arange(400) + 0.5) / 200 - 1
    x, y = np.meshgrid(side, side)
    return float((OUTLINES[name](x, y) < 0).mean() * 4)
