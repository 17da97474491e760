"""Training items: images, also of two sets, or episodes, taken in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from stochx.engine.seeds import generator
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
        pixels, y = self.taken(whole[mine], like.device)
        return _prepared(pixels, mine, len(whole), like, source), y

    def taken(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return pixels and labels of the images `index` (N,) on a device."""
        places = index.to(self.pixels.device)
        return self.pixels[places].to(device, non_blocking=True), self.labels[places].to(device, non_blocking=True)


@dataclass(frozen=True)
class Mixed:
    """Images of which a share of each batch, in random places, is replaced by `extra` ones, drawn with replacement.

    An epoch has as many items as there are `real` images, and each of these stands for one of them (Carmon et al.,
    2019). The draw depends on the seed, the epoch and the batch alone, so that all ranks and a resumed run repeat it.
    """

    real: Images
    extra: Images
    share: float
    seed: int
    minimum: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.real)

    def batch(
        self, whole: Tensor, mine: slice, epoch: int, like: Tensor, source: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        draws = generator(self.seed, "extra", epoch, int(whole[0]))
        replaced = torch.zeros(len(whole), dtype=torch.bool)
        replaced[torch.randperm(len(whole), generator=draws)[: round(self.share * len(whole))]] = True
        drawn = torch.randint(len(self.extra), (len(whole),), generator=draws)
        pixels, y = self.real.taken(whole[mine], like.device)
        places = replaced[mine].nonzero().flatten()
        pixels[places.to(like.device)], y[places.to(like.device)] = self.extra.taken(drawn[mine][places], like.device)
        return _prepared(pixels, mine, len(whole), like, source), y


def _prepared(pixels: Tensor, mine: slice, count: int, like: Tensor, source: torch.Generator | None) -> Tensor:
    """Return pixels (N, 3, H, W) uint8, the part `mine` of `count`, in [0, 1], augmented from `source` if set."""
    x = pixels.to(like.dtype) / 255
    return x if source is None else augment(x, mine, count, source)
