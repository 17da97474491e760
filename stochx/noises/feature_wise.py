"""Feature-wise transformation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, drawn


@dataclass(frozen=True)
class FeatureWise:
    """Random scale and shift of every channel, feature-wise transformation (Tseng et al., 2020, without learning).

        y = (1 + g eps_1) z + b eps_2,  eps ~ N(0, 1) for each channel

    With `share=batch`, as in the paper, a draw stands for another domain, not for another image.
    """

    scale: float = 0.3  # g, spread of the channels' factors
    shift: float = 0.5  # b, spread of what is added to them
    site: Literal["after-bn", "block", "before-bn"] = "after-bn"  # where
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether the images of a batch share a draw

    def __post_init__(self) -> None:
        if self.scale < 0 or self.shift < 0:
            raise ValueError("scale and shift must not be negative")

    def __call__(self, place: Site) -> nn.Module:
        return _FeatureWise(self.scale, self.shift, self.share)


class _FeatureWise(nn.Module):
    def __init__(self, scale: float, shift: float, share: str) -> None:
        super().__init__()
        self.scale, self.shift, self.share = scale, shift, share

    def forward(self, z: Tensor) -> Tensor:
        channels = z.flatten(2)[:, :, 0] if z.dim() > 2 else z
        shape = *channels.shape, *[1] * (z.dim() - 2)
        factor, term = (drawn(torch.randn, channels, self.share).reshape(shape) for _ in range(2))
        return self.scale * factor * z + self.shift * term
