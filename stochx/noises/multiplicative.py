"""Multiplicative noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal


@dataclass(frozen=True)
class Multiplicative:
    """Noise proportional to each value: y = z (1 + beta * eps), eps ~ N(0, 1)."""

    beta: float = 0.3  # degree of stochasticity: noise relative to each value
    site: Literal["before-bn", "after-bn", "block", "layer-input", "penultimate"] = "before-bn"  # where it is added
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError("beta must not be negative")

    def __call__(self, place: Site) -> nn.Module:
        return _Multiplicative(self.beta, self.share)


class _Multiplicative(nn.Module):
    def __init__(self, beta: float, share: str) -> None:
        super().__init__()
        self.beta, self.share = beta, share

    def forward(self, z: Tensor) -> Tensor:
        return self.beta * z * normal(z, self.share)
