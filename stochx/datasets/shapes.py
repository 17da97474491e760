"""Procedural shapes with ground-truth masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from stochx.datasets import Split
from stochx.datasets._outlines import NAMES
from stochx.datasets._scenes import DOMAINS, draw
from stochx.engine.io.data import Data, from_arrays
from stochx.engine.seeds import digest

AT_ONCE = 2**19  # pixels drawn per batch: fits the caches
IN_MEMORY = 2**29  # bytes of images in memory; larger sets, and images over 64 pixels, are drawn on demand
LARGE = 64


@dataclass(frozen=True)
class Shapes:
    """Coloured shapes on textured backgrounds, with object masks; needs no download.

    The class is the shape alone: colour, position, size, rotation and background are random. Item i depends on the
    seed, the split, its domain and i, so a smaller set is the beginning of a larger one. `test` has a fifth of `count`.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "size=32,classes=4,count=12",
        "size=80,classes=3,count=5,domain=mixed",
    )

    size: int = 32  # image side in pixels, at least 16
    classes: int = 10  # number of shapes, 1 to 16
    count: int = 2000  # images in the train split
    domain: Literal["photo", "sketch", "inverted", "clutter", "mixed"] = "photo"  # visual domain of the images
    seed: int = 0  # random seed of the images

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size must be 16 to 4096, got {self.size}")
        if not 1 <= self.classes <= len(NAMES):
            raise ValueError(f"classes must be 1 to {len(NAMES)}, got {self.classes}")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def __call__(self, split: Split) -> Data:
        count = self.count if split == "train" else max(1, self.count // 5)
        labels = [i % self.classes for i in range(count)]
        looks = list(DOMAINS) if self.domain == "mixed" else [self.domain]
        domains = [looks[i // self.classes % len(looks)] for i in range(count)]

        def paint(indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
            """Draw images (N, S, S, 3) uint8 and masks (N, S, S) of one domain."""
            (domain,) = {domains[i] for i in indices}
            seeds = [digest("shapes", self.seed, split, domain, i) for i in indices]
            scene = draw(self.size, [NAMES[labels[i]] for i in indices], seeds)
            return (DOMAINS[domain](scene) * 255 + 0.5).astype(np.uint8), scene.distance < 0

        prefix = f"shapes/{self.domain}/{split}"
        if self.size <= LARGE and count * self.size**2 * 3 <= IN_MEMORY:
            pixels = np.empty((count, self.size, self.size, 3), np.uint8)
            masks = np.empty((count, self.size, self.size), bool)
            step = max(1, AT_ONCE // self.size**2)
            for look in looks:
                indices = [i for i in range(count) if domains[i] == look]
                for part in (indices[k : k + step] for k in range(0, len(indices), step)):
                    pixels[part], masks[part] = paint(part)
            return from_arrays(pixels, labels, NAMES[: self.classes], prefix, masks, domains)

        painted = lru_cache(maxsize=8)(lambda i: paint([i]))  # the mask is requested after its image
        return Data(
            classes=NAMES[: self.classes],
            keys=[f"{prefix}/{i:05d}" for i in range(count)],
            read=lambda i: Image.fromarray(painted(i)[0][0]),
            labels=labels,
            mask=lambda i: np.asarray(painted(i)[1][0]),
            domains=domains,
        )
