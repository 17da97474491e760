"""Gaussian noise of fixed strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal


@dataclass(frozen=True)
class Gaussian:
    """Fixed Gaussian noise before every convolution: random self-ensemble, RSE (Liu et al., 2018).

        y = z + sigma * eps,  eps ~ N(0, 1)

    RSE is trained on cross-entropy alone; attacks that average over draws are known to break it. A transformer has a
    single convolution: there `site=layer-input` is the noise before every layer.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "site=before-bn,share=batch")  # settings that are tested

    sigma: float = 0.1  # standard deviation, in units of the activations
    first: float = 0.2  # standard deviation before the first layer
    site: Literal["conv-input", "layer-input", "before-bn", "after-bn", "block", "input"] = "conv-input"  # noise site
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.sigma < 0 or self.first < 0:
            raise ValueError("sigma and first must not be negative")

    def __call__(self, place: Site) -> nn.Module:
        return _Gaussian(self.sigma if place.index else self.first, self.share)


class _Gaussian(nn.Module):
    def __init__(self, sigma: float, share: str) -> None:
        super().__init__()
        self.sigma, self.share = sigma, share

    def forward(self, z: Tensor) -> Tensor:
        return self.sigma * normal(z, self.share)

    def fixed_std(self) -> Tensor:
        return torch.tensor(self.sigma, dtype=torch.float64)
