"""Procedural shapes with ground-truth masks, and objects of parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from stochx.datasets import Split
from stochx.datasets._figures import combinations, draw_figures, drawing, incomplete, name_of, to_bytes
from stochx.datasets._outlines import NAMES
from stochx.datasets._scenes import DOMAINS, Scene, draw
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
    classes: int = 10  # number of shapes, 1 to 16; of combinations of parts, up to 125
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

        table = combinations(self.parts)[: self.classes] if self.parts else ()
        names = tuple(map(name_of, table)) if self.parts else NAMES[: self.classes]

        def seed(i: int) -> int:
            return digest("shapes", self.seed, split, domains[i], i)

        def figure(i: int) -> Variants:
            whole = table[labels[i]]
            return whole if split == "test" else incomplete(whole, table, digest(seed(i), "parts"))

        def scenes(indices: list[int]) -> Scene:
            seeds = [seed(i) for i in indices]
            if self.parts:
                return draw_figures(self.size, [figure(i) for i in indices], seeds)
            return draw(self.size, [NAMES[labels[i]] for i in indices], seeds)

        def paint(indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            """Draw images (N, S, S, 3) uint8 and masks (N, S, S) of one domain."""
            (domain,) = {domains[i] for i in indices}
            scene = scenes(indices)
            return to_bytes(DOMAINS[domain](scene)), scene.distance < 0

        def drawn(i: int) -> Drawing:
            return drawing(self.size, domains[i], seed(i), figure(i), labels[i], table)

        prefix = f"shapes/{self.domain}/{split}"
        if self.size <= LARGE and count * self.size**2 * 3 <= IN_MEMORY:
            pixels = np.empty((count, self.size, self.size, 3), np.uint8)
            masks = np.empty((count, self.size, self.size), bool)
            step = max(1, AT_ONCE // self.size**2)
            for look in looks:
                indices = [i for i in range(count) if domains[i] == look]
                for part in (indices[k : k + step] for k in range(0, len(indices), step)):
                    pixels[part], masks[part] = paint(part)
            data = from_arrays(pixels, labels, names, prefix, masks, domains)
            return replace(data, parts=drawn) if self.parts else data

        painted = lru_cache(maxsize=8)(lambda i: paint([i]))  # the mask is requested after its image
        return Data(
            classes=names,
            keys=[f"{prefix}/{i:05d}" for i in range(count)],
            read=lambda i: Image.fromarray(painted(i)[0][0]),
            labels=labels,
            mask=lambda i: np.asarray(painted(i)[1][0]),
            domains=domains,
            parts=drawn if self.parts else None,
        )
