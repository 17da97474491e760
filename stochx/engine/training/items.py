"""Training items: images, or episodes, taken in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from stochx.engine.training.augment import augment


class Items(Protocol):
    """Images, episodes or other items: `len(items)` per epoch, and at least `minimum` per step."""

    @property
    def minimum(self) -> int: ...

    def __len__(self) -> int: ...

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return x and y of the part `mine` of the items `whole` (N,) of a step, with the type and device of `like`.

        `source` draws the augmentation for all of `whole`; None: no augmentation.
        """
        ...


@dataclass(frozen=True)
class Images:
    """Pixels (N, 3, H, W) uint8 with labels (N,). Batch norms need at least two images per step."""

    pixels: Tensor
    labels: Tensor
    minimum: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        places = whole[mine].to(self.pixels.device)
        x = self.pixels[places].to(like.device, non_blocking=True).to(like.dtype) / 255
        y = self.labels[places].to(like.device, non_blocking=True)
        if source is not None:
            x = augment(x, mine, len(whole), source)
        return x.contiguous(memory_format=torch.channels_last), y
