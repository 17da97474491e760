"""Figures: objects of a body and parts around it, whose variants make the class (after Hesse et al., 2023)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stochx.datasets._outlines import NAMES, OUTLINES, disc
from stochx.datasets._scenes import ABSENT, DOMAINS, FRAGMENTS, Scene, draw_ground, draw_scenes, fragment, placed
from stochx.engine.parts import Drawing, Variants, sufficient_sets
from stochx.engine.seeds import digest

Array = NDArray[np.floating]

RADIUS = (0.38, 0.45)  # of a figure, in image sides
BODY, PART, PLACE = 0.42, 0.34, 0.66  # radii of the body and of a part, and a part's distance, in radii of the figure
INCOMPLETE = 0.5  # share of the figures to train on that lack parts


def outlines_of(part: int, parts: int) -> tuple[str, ...]:
    """Return the outlines of the variants of a part: no two parts share one, so that turned figures differ."""
    return NAMES[part::parts][: len(NAMES) // parts]


@cache
def combinations(parts: int) -> tuple[Variants, ...]:
    """Return the variants of each class, in an order that looks random, and of which all numbers of classes begin."""
    every = list(itertools.product(range(len(NAMES) // parts), repeat=parts))
    order = np.random.Generator(np.random.PCG64(digest("shapes", "parts", parts))).permutation(len(every))
    return tuple(every[place] for place in order)


def name_of(variants: Variants) -> str:
    """Return the name of a class: `disc+cross+arrow+tee`."""
    return "+".join(str(outline) for outline in _outlines(variants))


def _outlines(variants: Variants) -> tuple[str | None, ...]:
    families = [outlines_of(part, len(variants)) for part in range(len(variants))]
    return tuple(None if v is None else family[v] for v, family in zip(variants, families, strict=True))


def incomplete(variants: Variants, table: tuple[Variants, ...], seed: int) -> Variants:
    """Return a figure that lacks some parts, or none, and that no other class of the table has too."""
    source = np.random.Generator(np.random.PCG64(seed))
    if source.random() >= INCOMPLETE:
        return variants
    sets = sufficient_sets(variants, table)
    kept = sets[source.integers(len(sets))] | {p for p in range(len(variants)) if source.random() < INCOMPLETE}
    return tuple(own if part in kept else None for part, own in enumerate(variants))


def draw_figures(size: int, figures: Sequence[Variants], seeds: Sequence[int]) -> Scene:
    """Draw one scene for each figure and seed; a seed's scenes differ in the figure alone."""
    return draw_scenes(size, lambda u: distances(size, figures, u).min(1), seeds)


def distances(size: int, figures: Sequence[Variants], u: Array) -> Array:
    """Return the signed distances (N, 1 + P, S, S) in pixels to the body and to each part, `ABSENT` to missing ones.

    The parts stand around the body at even angles, turned outwards, and do not touch each other.
    """
    outlines, count = [_outlines(figure) for figure in figures], len(figures[0])
    radius = (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * u[:, 0])[:, None, None]
    x, y = (axis / radius for axis in placed(size, radius.ravel(), u))
    found = np.full((len(figures), 1 + count, size, size), ABSENT, np.float32)
    found[:, 0] = disc(x, y, BODY) * radius * size
    for part in range(count):
        angle = 2 * np.pi * part / count
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        along, across = (along - PLACE) / PART, across / PART
        for name in outlines_of(part, count):
            chosen = np.flatnonzero([figure[part] == name for figure in outlines])
            outline = OUTLINES[name](-across[chosen], along[chosen])  # its top is turned outwards
            found[chosen, 1 + part] = outline * PART * radius[chosen] * size
    return found


def drawing(size: int, domain: str, seed: int, variants: Variants, label: int, table: tuple[Variants, ...]) -> Drawing:
    """Return the parts of a figure of class `label`.

    The pieces of its background are the fragments of `clutter`, or else the background as a whole.
    """
    scene = draw_figures(size, [variants], [seed])
    body, *parts = distances(size, [variants], scene.u)[0]
    rest = [np.min([body, *(other for other in parts if other is not part)], 0) for part in parts]
    masks = np.stack([(part < others) & (part < 0.5) for part, others in zip(parts, rest, strict=True)])
    seen = scene.alpha[0] < 1
    if domain == "clutter":
        pieces = np.stack([(fragment(scene, k)[0] > 0) & seen for k in range(FRAGMENTS)])
    else:
        pieces = seen[None]

    def paint(figure: Variants, kept: tuple[bool, ...]) -> Image.Image:
        scene = draw_figures(size, [figure], [seed])
        if domain == "clutter":
            picture = DOMAINS[domain](replace(scene, scattered=kept))
        else:
            picture = DOMAINS[domain](scene)
            if not kept[0]:  # it lies on the ground of another scene
                ground = DOMAINS[domain](draw_ground(size, [digest(seed, "ground")]))
                picture = ground + (picture - ground) * scene.alpha[..., None]
        return Image.fromarray(to_bytes(picture)[0])

    return Drawing(masks, pieces, variants, label, table, [name_of(row) for row in table], paint)


def to_bytes(picture: Array) -> NDArray[np.uint8]:
    """Return pictures in [0, 1] with 8 bits a channel."""
    return (picture * 255 + 0.5).astype(np.uint8)
