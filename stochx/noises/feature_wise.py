"""Feature-wise transformation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import drawn
from stochx.noises._spread import of_channels


@dataclass(frozen=True)
class FeatureWise:
    """Feature-wise transformation: random scale and shift per channel, not learned (Tseng et al., 2020).

        y = (1 + g eps_1) z + b eps_2,  eps ~ N(0, 1) for each channel

    With `share=batch`, as in the paper, each draw simulates another domain rather than another image. The paper's code
    has it at the last norm of each block and of its shortcut, `site=block-end`: in `resnet10` at 7 of 12 norms.
    """

    scale: float = 0.3  # standard deviation g of the factors
    shift: float = 0.5  # standard deviation b of the shifts
    site: Literal["after-bn", "block-end", "block", "before-bn"] = "after-bn"  # where to add the noise
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.scale < 0 or self.shift < 0:
            raise ValueError("scale and shift must not be negative")

    def __call__(self, place: Site) -> nn.Module:
        return _FeatureWise(self.scale, self.shift, self.share, place.axis)


class _FeatureWise(nn.Module):
    def __init__(self, scale: float, shift: float, share: str, axis: int) -> None:
        super().__init__()
        self.scale, self.shift, self.share, self.axis = scale, shift, share, axis + 1

    def forward(self, z: Tensor) -> Tensor:
        factor, term = (drawn(torch.randn, of_channels(z, self.axis), self.share) for _ in range(2))
        return self.scale * factor * z + self.shift * term
