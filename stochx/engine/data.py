"""What a data set gives: items with a key, an image in [0, 1], and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stochx.engine.images import Preparation, to_tensor


@dataclass(frozen=True)
class Item:
    """One image, (3, H, W) in [0, 1], its class index, and its object mask (H, W) where there is one."""

    key: str
    image: Tensor
    label: int | None = None
    mask: Tensor | None = None
    domain: str | None = None


@dataclass(frozen=True)
class Data:
    """Images by index, read when asked for: `len(data)`, `data.item(7)`.

    `read(i)` gives an 8-bit RGB image; `mask(i)` (H, W) booleans. `pixels`, (N, 3, H, W) uint8, is there
    where all images lie in memory at one size: training reads it as a whole. Labels are class indices.
    """

    classes: tuple[str, ...]
    keys: Sequence[str]
    read: Callable[[int], Image.Image]
    labels: Sequence[int] | None = None
    mask: Callable[[int], np.ndarray] | None = None
    domains: Sequence[str] | None = None
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def item(self, index: int, prepare: Preparation | None = None) -> Item:
        """Item `index`, image and mask prepared alike."""
        image = self.read(index)
        mask = None
        if self.mask is not None:
            drawn = Image.fromarray(self.mask(index).astype(np.uint8) * 255).convert("RGB")
            drawn = prepare(drawn) if prepare else drawn
            mask = torch.from_numpy(np.array(drawn)[..., 0] >= 128)
        return Item(
            key=self.keys[index],
            image=to_tensor(prepare(image) if prepare else image),
            label=int(self.labels[index]) if self.labels is not None else None,
            mask=mask,
            domain=self.domains[index] if self.domains is not None else None,
        )


def from_arrays(
    pixels: np.ndarray,
    labels: Sequence[int] | None,
    classes: Sequence[str],
    prefix: str,
    masks: np.ndarray | None = None,
    domains: Sequence[str] | None = None,
) -> Data:
    """Data from (N, H, W, 3) uint8 in memory; keys are `prefix/00000` and so on."""
    return Data(
        classes=tuple(classes),
        keys=[f"{prefix}/{i:05d}" for i in range(len(pixels))],
        read=lambda i: Image.fromarray(pixels[i]),
        labels=labels,
        mask=None if masks is None else lambda i: np.asarray(masks[i], dtype=bool),
        domains=domains,
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
    )
