"""Procedural shapes with ground-truth masks, and objects of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from stochx.datasets import Split
from stochx.datasets._figures import combinations, draw_figures, drawing, incomplete, name_of, to_bytes
from stochx.datasets._outlines import NAMES
from stochx.datasets._scenes import DOMAINS, draw
from stochx.engine.io.data import Data, from_arrays
from stochx.engine.parts import Drawing, Variants
from stochx.engine.seeds import digest

AT_ONCE = 2**19  # pixels drawn per batch: fits the caches
IN_MEMORY = 2**29  # bytes of images in memory; larger sets, and images over 64 pixels, are drawn on demand
LARGE = 64


@dataclass(frozen=True)
class Shapes:
    """Coloured shapes on textured backgrounds, with object masks; needs no download.

    The class is the shape alone: colour, position, size, rotation and background are random. Item i depends on the
    seed, the split, its domain and i, so a smaller set is the beginning of a larger one. `test` has a fifth of `count`.

    With `parts`, objects have a body and that many parts around it, each in 3 to 5 variants, and a class is a
    combination of variants, in the manner of FunnyBirds (Hesse et al., 2023). Each part can be taken away, or another
    one put in its place, and nothing else changes: metrics such as `single-deletion` ask a map which parts count, and
    the network too. Half of the images to train on lack parts, but for enough of them to tell the class, so that a
    network knows such images. Use at least 48 pixels.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "size=32,classes=4,count=12",
        "size=80,classes=3,count=5,domain=mixed",
        "size=48,classes=4,count=12,parts=4",
    )

    size: int = 32  # image side in pixels, at least 16
    classes: int = 10  # number of shapes, 1 to 16; of combinations of 3, 4 or 5 parts, up to 125, 256 or 243
    count: int = 2000  # images in the train split
    domain: Literal["photo", "sketch", "inverted", "clutter", "mixed"] = "photo"  # visual domain of the images
    parts: int = 0  # parts around the body of an object, 3 to 5; 0: objects of one shape
    seed: int = 0  # random seed of the images

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size must be 16 to 4096, got {self.size}")
        if self.parts not in (0, 3, 4, 5):
            raise ValueError(f"parts must be 0, or 3 to 5, got {self.parts}")
        most = len(combinations(self.parts)) if self.parts else len(NAMES)
        if not 1 <= self.classes <= most:
            raise ValueError(f"classes must be 1 to {most}, got {self.classes}")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def __call__(self, split: Split) -> Data:
        count = self.count if split == "train" else max(1, self.count // 5)
        labels = [i % self.classes for i in range(count)]
        looks = list(DOMAINS) if self.domain == "mixed" else [self.domain]
        domains = [looks[i // self.classes % len(looks)] for i in range(count)]
        images, prefix = _Images(self, split, labels, domains), f"shapes/{self.domain}/{split}"
        parts = images.drawing if self.parts else None
        if self.size <= LARGE and count * self.size**2 * 3 <= IN_MEMORY:
            pixels = np.empty((count, self.size, self.size, 3), np.uint8)
            masks = np.empty((count, self.size, self.size), bool)
            step = max(1, AT_ONCE // self.size**2)
            for look in looks:
                indices = [i for i in range(count) if domains[i] == look]
                for some in (indices[k : k + step] for k in range(0, len(indices), step)):
                    pixels[some], masks[some] = images.paint(some)
            return replace(from_arrays(pixels, labels, images.classes, prefix, masks, domains), parts=parts)

        painted = lru_cache(maxsize=8)(lambda i: images.paint([i]))  # the mask is requested after its image
        return Data(
            classes=images.classes,
            keys=[f"{prefix}/{i:05d}" for i in range(count)],
            read=lambda i: Image.fromarray(painted(i)[0][0]),
            labels=labels,
            mask=lambda i: np.asarray(painted(i)[1][0]),
            domains=domains,
            parts=parts,
        )


@dataclass(frozen=True)
class _Images:
    """The images of a split: what each shows, drawn from a seed of its own."""

    shapes: Shapes
    split: Split
    labels: Sequence[int]
    domains: Sequence[str]

    @cached_property
    def table(self) -> tuple[Variants, ...]:
        """The variants of the parts of each class, for objects of parts."""
        return combinations(self.shapes.parts)[: self.shapes.classes] if self.shapes.parts else ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(map(name_of, self.table)) or NAMES[: self.shapes.classes]

    def paint(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Draw images (N, S, S, 3) uint8 and masks (N, S, S) of one domain."""
        (domain,) = {self.domains[i] for i in indices}
        size, seeds = self.shapes.size, [self._seed(i) for i in indices]
        if self.table:
            scene = draw_figures(size, [self._figure(i) for i in indices], seeds)
        else:
            scene = draw(size, [NAMES[self.labels[i]] for i in indices], seeds)
        return to_bytes(DOMAINS[domain](scene)), scene.distance < 0

    def drawing(self, i: int) -> Drawing:
        """Return the parts of the object on an image."""
        return drawing(self.shapes.size, self.domains[i], self._seed(i), self._figure(i), self.labels[i], self.table)

    def _seed(self, i: int) -> int:
        return digest("shapes", self.shapes.seed, self.split, self.domains[i], i)

    def _figure(self, i: int) -> Variants:
        """Return the variants of the parts on an image, of which some are missing in training."""
        whole = self.table[self.labels[i]]
        return incomplete(whole, self.table, digest(self._seed(i), "parts")) if self.split == "train" else whole
