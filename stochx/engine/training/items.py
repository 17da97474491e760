"""What a training learns from: items that it takes in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from stochx.engine.training.augment import augment


class Items(Protocol):
    """Images, episodes, or whatever an epoch has `len(items)` of; a step has at least `minimum` of them."""

    @property
    def minimum(self) -> int: ...

    def __len__(self) -> int: ...

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """X and y of the part `mine` of the items `whole` (N,) of a step, on the device of `like` and of its kind.

        `source` is what random changes of x are drawn from, for all of `whole`; None: no changes.
        """
        ...


@dataclass(frozen=True)
class Images:
    """(N, 3, H, W) uint8 with labels (N,): x in [0, 1], y. A batch norm needs two images at once."""

    pixels: Tensor
    labels: Tensor
    minimum: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        some = whole[mine].to(self.pixels.device)
        x = self.pixels[some].to(like.device, non_blocking=True).to(like.dtype) / 255
        y = self.labels[some].to(like.device, non_blocking=True)
        if source is not None:
            x = augment(x, mine, len(whole), source)
        return x.contiguous(memory_format=torch.channels_last), y
