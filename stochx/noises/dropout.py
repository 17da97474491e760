"""Dropout that stays on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, drawn


@dataclass(frozen=True)
class Dropout:
    """Values set to zero at random, in use too: y = z m / (1 - p), m ~ Bernoulli(1 - p) (Gal & Ghahramani, 2016)."""

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "site=before-bn",
        "channels=true,site=layer-input",
    )

    p: float = 0.2  # share of the values that is dropped
    channels: bool = False  # whether whole channels are dropped
    site: Literal["block", "before-bn", "after-bn", "layer-input", "penultimate"] = "block"  # where the noise enters
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether the images of a batch share a draw

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError("p must lie in [0, 1)")

    def __call__(self, place: Site) -> nn.Module:
        return _Dropout(self.p, self.channels, self.share)


class _Dropout(nn.Module):
    def __init__(self, p: float, channels: bool, share: str) -> None:
        super().__init__()
        self.p, self.channels, self.share = p, channels, share

    def forward(self, z: Tensor) -> Tensor:
        like = z[:, :, :1, :1] if self.channels and z.dim() == 4 else z
        kept = (drawn(torch.rand, like.float(), self.share) >= self.p).to(z.dtype)
        return z * (kept / (1 - self.p) - 1)
