"""Objects of parts: what each part covers, and the image without it, or with another one in its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from stochx.engine.io.images import Picture, Preparation, prepared_image, prepared_mask

Variants = tuple[int | None, ...]  # of each part the number of its variant, None for a part that is missing


@dataclass(frozen=True)
class Parts:
    """The parts of the object on one image, and the pieces of its background, as the network sees them.

    `masks` (P, H, W) and `pieces` (K, H, W) are true where the image changes without a part or a piece. `variants` are
    those of this object, which may lack some, `table` those of every class, whose names are `classes`; `label` is the
    object's own. `draw(variants, kept)` is the image (C, H, W) in [0, 1] of the same scene with these variants and the
    pieces that are kept; with those of the object, and all pieces, the image itself.
    """

    masks: Tensor
    pieces: Tensor
    variants: Variants
    label: int
    table: tuple[Variants, ...]
    classes: Sequence[str]
    draw: Callable[[Variants, tuple[bool, ...]], Tensor]

    def without(self, gone: Collection[int] = ()) -> Tensor:
        """Return the image without some parts, 0 to P - 1, and pieces of the background, P to P + K - 1."""
        count = len(self.variants)
        variants = tuple(None if part in gone else own for part, own in enumerate(self.variants))
        return self.draw(variants, tuple(count + piece not in gone for piece in range(len(self.pieces))))

    def replaced(self, part: int) -> Tensor:
        """Return the image with the next variant that a class has in the place of a part."""
        known = sorted({row[part] for row in self.table} - {None}, key=str)
        own = self.variants[part]
        other = known[(known.index(own) + 1) % len(known)] if own is not None else None
        return self.draw((*self.variants[:part], other, *self.variants[part + 1 :]), (True,) * len(self.pieces))


@dataclass(frozen=True)
class Drawing:
    """The parts of an object as a data set draws it, before it is prepared for a network; fields as those of `Parts`.

    Masks are arrays (P, H, W) and (K, H, W) of bool.
    """

    masks: np.ndarray
    pieces: np.ndarray
    variants: Variants
    label: int
    table: tuple[Variants, ...]
    classes: Sequence[str]
    paint: Callable[[Variants, tuple[bool, ...]], Picture]

    def prepared(self, prepare: Preparation | None) -> Parts:
        """Return the parts as a network with this preparation sees them; images are drawn once."""
        draw = cache(lambda variants, kept: prepared_image(self.paint(variants, kept), prepare))
        masks, pieces = (
            torch.stack([prepared_mask(mask, prepare) for mask in group]) for group in (self.masks, self.pieces)
        )
        return Parts(masks, pieces, self.variants, self.label, self.table, self.classes, draw)


@cache
def sufficient_sets(variants: Variants, table: tuple[Variants, ...]) -> tuple[frozenset[int], ...]:
    """Return the smallest sets of parts that tell the class of an object from all other rows of the table.

    No set holds another one of them. There is none where another class has the same parts.
    """
    others = [row for row in table if row != variants]
    found = list[frozenset[int]]()
    for size in range(len(variants) + 1):
        for chosen in map(frozenset, itertools.combinations(range(len(variants)), size)):
            tells = all(any(row[part] != variants[part] for part in chosen) for row in others)
            if tells and not any(smaller <= chosen for smaller in found):
                found.append(chosen)
    return tuple(found)
