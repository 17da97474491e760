"""Scenes of one object on a textured background, drawn in batches: geometry, colours, light, and visual domains.

All numbers of a scene come from its own generator and are relative to the image's side, so that a scene looks the
same at any size and in any batch. Fields are (N, S, S) float32, pictures (N, S, S, 3) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from stochx.datasets._outlines import OUTLINES, area

Array = NDArray[np.floating]

AREA = (0.12, 0.32)  # share of the image that the object covers, if its outline fits
REACH = 0.46  # largest radius, in image sides
OCTAVES = ((4, 1.0), (8, 0.6), (15, 0.45), (27, 0.35))  # points per side and weight of each octave of noise
FRAGMENTS = 16
ABSENT = 1e3  # distance, in pixels, to what is not there


def _cut(values: Array) -> Array:
    cut: Array = np.clip(values, 0, 1)
    return cut


@dataclass(frozen=True)
class Scene:
    """The random numbers and fields of N scenes."""

    size: int
    u: Array  # (N, 32) in [0, 1): geometry, colours, light
    fragments: Array  # (N, K, 9) in [0, 1)
    noise: Array  # (2, N, S, S), smooth, of unit deviation
    grain: Array  # (N, S, S, 3), white, of unit deviation
    distance: Array  # (N, S, S) to the outline, in pixels, negative inside
    scattered: Sequence[bool] = (True,) * FRAGMENTS  # whether each fragment is there

    @property
    def alpha(self) -> Array:
        """Opacity of the anti-aliased object."""
        return _cut(0.5 - self.distance)


def draw(size: int, shapes: Sequence[str], seeds: Sequence[int]) -> Scene:
    """Draw one scene for each shape and seed."""
    return draw_scenes(size, lambda u: _distance(size, shapes, u), seeds)


def draw_ground(size: int, seeds: Sequence[int]) -> Scene:
    """Draw one scene without an object for each seed."""
    return draw_scenes(size, lambda u: np.full((len(u), size, size), ABSENT, np.float32), seeds)


def draw_scenes(size: int, outline: Callable[[Array], Array], seeds: Sequence[int]) -> Scene:
    """Draw one scene for each seed; `outline` returns the distances to the objects from their numbers (N, 32)."""
    generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
    u = np.stack([g.random(32) for g in generators]).astype(np.float32)
    fragments = np.stack([g.random((FRAGMENTS, 9), dtype=np.float32) for g in generators])
    grids = [np.stack([g.standard_normal((2, points, points)) for g in generators]) for points, _ in OCTAVES]
    grain = np.stack([g.standard_normal((size, size, 3), dtype=np.float32) for g in generators])
    return Scene(size, u, fragments, _noise(size, grids), grain, outline(u))


def _distance(size: int, shapes: Sequence[str], u: Array) -> Array:
    """Return the signed distance in pixels to each outline, placed, rotated and scaled at random inside the image."""
    areas = np.array([area(shape) for shape in shapes], dtype=np.float32)
    share = AREA[0] + (np.minimum(AREA[1], areas * REACH**2) - AREA[0]) * u[:, 0]
    radius = np.sqrt(share / areas)
    x, y = placed(size, radius, u)
    distance = np.empty_like(x)
    for shape in sorted(set(shapes)):
        chosen = np.flatnonzero([s == shape for s in shapes])
        scale = radius[chosen, None, None]
        distance[chosen] = OUTLINES[shape](x[chosen] / scale, y[chosen] / scale) * (scale * size)
    return distance


def placed(size: int, radius: Array, u: Array) -> tuple[Array, Array]:
    """Return coordinates, in image sides, around random centres that leave room for a radius (N,), randomly rotated."""
    margin = radius + 0.5 - REACH
    centre = margin[:, None] + (1 - 2 * margin[:, None]) * u[:, 1:3]
    return _turned(size, centre, 2 * np.pi * u[:, 3])


def _turned(size: int, centre: Array, angle: Array) -> tuple[Array, Array]:
    """Return coordinates, in image sides, around centres (N, 2) and rotated by angles (N,)."""
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = steps[None, None, :] - centre[:, 0, None, None]
    y = steps[None, :, None] - centre[:, 1, None, None]
    cosine, sine = (f(angle, dtype=np.float32)[:, None, None] for f in (np.cos, np.sin))
    return cosine * x + sine * y, cosine * y - sine * x


@cache
def _spline(size: int, points: int) -> Array:
    """Return weights (size, points) of the cubic B-spline that interpolates a coarse row."""
    place = (np.arange(size) + 0.5) / size * (points - 3) + 1
    t = np.abs(place[:, None] - np.arange(points))
    near, far = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far)


def _noise(size: int, grids: Sequence[Array]) -> Array:
    """Return smooth multi-scale noise (2, N, S, S) of unit deviation, from one coarse grid (N, 2, P, P) per octave."""
    layers = [
        weight * (_spline(size, points) @ grid @ _spline(size, points).T)
        for grid, (points, weight) in zip(grids, OCTAVES, strict=True)
    ]
    spread = 0.48 * np.sqrt(sum(weight**2 for _, weight in OCTAVES))  # 0.48: deviation of white noise after a B-spline
    total: Array = np.sum(layers, axis=0) / spread
    return np.moveaxis(total, 1, 0).astype(np.float32)


def _colour(hue: Array, saturation: Array, value: Array) -> Array:
    """Convert a colour from HSV to RGB (..., 3)."""
    k = (np.array([5, 3, 1], dtype=np.float32) + 6 * hue[..., None]) % 6
    depth: Array = _cut(np.minimum(k, 4 - k))
    return value[..., None] * (1 - saturation[..., None] * depth)


def _vivid(u: Array) -> Array:
    return _colour(u[..., 0], 0.15 + 0.75 * u[..., 1], 0.2 + 0.75 * u[..., 2])


def _blend(low: Array, high: Array, weight: Array) -> Array:
    """Interpolate from colours `low` to `high` (N, 3), or pictures, by a field."""
    low, high = (c[:, None, None] if c.ndim == 2 else c for c in (low, high))
    return low + (high - low) * weight[..., None]


def _palette(scene: Scene) -> tuple[Array, Array]:
    """Return two colours (N, 2, 3) of the background, and two of the object, from the candidate of highest contrast."""
    ground = _vivid(scene.u[:, 4:10].reshape(-1, 2, 3))
    ground[:, 1] = 0.65 * ground[:, 0] + 0.35 * ground[:, 1]
    candidates = _vivid(scene.u[:, 10:22].reshape(-1, 4, 3))
    contrast = ((candidates[:, :, None] - ground[:, None]) ** 2).sum(-1).min(-1)
    rows = np.arange(len(ground))
    best = candidates[rows, contrast.argmax(1)]
    other = _cut(best + 0.25 * (scene.u[:, 22:25] - 0.5))
    return ground, np.stack([best, other], 1)


def _steps(noise: Array) -> Array:
    return _cut(0.5 + 0.5 * noise)


def _lit(scene: Scene, picture: Array) -> Array:
    """Add light from one side and sensor noise."""
    x, _ = _turned(scene.size, np.full((len(picture), 2), 0.5, np.float32), 2 * np.pi * scene.u[:, 25])
    light = 1 + 0.7 * scene.u[:, 26, None, None] * x
    noisy = 0.01 + 0.03 * scene.u[:, 27, None, None, None]
    return _cut(picture * light[..., None] + noisy * scene.grain)


def _scattered(scene: Scene, picture: Array, colour: Array) -> Array:
    """Scatter small rounded fragments over a picture; every second one has the object's colour."""
    for k in (k for k, there in enumerate(scene.scattered) if there):
        piece = colour if k % 3 == 0 else _vivid(scene.fragments[:, k, 6:9])
        picture = _blend(picture, piece, fragment(scene, k))
    return picture


def fragment(scene: Scene, k: int) -> Array:
    """Return the opacity (N, S, S) of a fragment of the background, above which the object lies."""
    u = scene.fragments[:, k]
    x, y = _turned(scene.size, u[:, 0:2], np.pi * u[:, 2])
    half = (0.05 * u[:, 3:5] ** 2)[..., None, None]
    dx, dy = np.maximum(np.abs(x) - half[:, 0], 0), np.maximum(np.abs(y) - half[:, 1], 0)
    return _cut(0.5 - (np.sqrt(dx**2 + dy**2) - (0.01 + 0.02 * u[:, 5, None, None])) * scene.size)


def photo(scene: Scene) -> Array:
    """Paint a textured object on a textured background."""
    ground, thing = _palette(scene)
    below = _blend(ground[:, 0], ground[:, 1], _steps(scene.noise[0]))
    above = _blend(thing[:, 0], thing[:, 1], _steps(scene.noise[1]))
    return _lit(scene, _blend(below, above, scene.alpha))


def inverted(scene: Scene) -> Array:
    """Paint the negative of a photo."""
    return 1 - photo(scene)


def clutter(scene: Scene) -> Array:
    """Paint a photo with fragments scattered over the background."""
    ground, thing = _palette(scene)
    below = _blend(ground[:, 0], ground[:, 1], _steps(scene.noise[0]))
    below = _scattered(scene, below, thing[:, 0])
    above = _blend(thing[:, 0], thing[:, 1], _steps(scene.noise[1]))
    return _lit(scene, _blend(below, above, scene.alpha))


def sketch(scene: Scene) -> Array:
    """Paint an uneven outline on paper, inside the object's edge, with light hatching."""
    u, distance = scene.u, scene.distance
    paper = _colour(u[:, 4], 0.12 * u[:, 5], 0.85 + 0.13 * u[:, 6])
    ink = _colour(u[:, 7], 0.5 * u[:, 8], 0.05 + 0.35 * u[:, 9])
    width = max(1.2, 0.04 * scene.size) * (1 + 0.3 * scene.noise[1])
    stroke = scene.alpha * _cut(0.5 + distance + width)
    along, _ = _turned(scene.size, u[:, 1:3], np.pi * u[:, 10])
    wave = np.abs((along * 11 + 0.1 * scene.noise[0]) % 1 - 0.5) * 2
    hatch = scene.alpha * _cut(2 * wave - 1) * (0.5 * u[:, 11, None, None])
    grey = _cut(np.maximum(stroke * (0.8 + 0.15 * scene.noise[0]), hatch))
    page = paper[:, None, None] * (1 + 0.03 * scene.noise[0] + 0.02 * scene.grain.mean(-1))[..., None]
    return _cut(_blend(page, ink, grey))


DOMAINS: dict[str, Callable[[Scene], Array]] = {
    "photo": photo,
    "sketch": sketch,
    "inverted": inverted,
    "clutter": clutter,
}
