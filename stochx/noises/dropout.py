"""Dropout in eval mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import drawn
from stochx.noises._spread import of_channels


@dataclass(frozen=True)
class Dropout:
    """Dropout, also in eval mode: y = z m / (1 - p), m ~ Bernoulli(1 - p) (Gal & Ghahramani, 2016)."""

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "site=before-bn",
        "channels=true,site=layer-input",
    )

    p: float = 0.2  # probability of dropping a value
    channels: bool = False  # drop whole channels
    site: Literal["block", "before-bn", "after-bn", "layer-input", "penultimate"] = "block"  # where to add the noise
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError("p must lie in [0, 1)")

    def __call__(self, place: Site) -> nn.Module:
        return _Dropout(self.p, self.channels, self.share, place.axis)


class _Dropout(nn.Module):
    def __init__(self, p: float, channels: bool, share: str, axis: int) -> None:
        super().__init__()
        self.p, self.channels, self.share, self.axis = p, channels, share, axis + 1

    def forward(self, z: Tensor) -> Tensor:
        like = of_channels(z, self.axis) if self.channels else z
        mask = (drawn(torch.rand, like.float(), self.share) >= self.p).to(z.dtype)
        return z * (mask / (1 - self.p) - 1)
