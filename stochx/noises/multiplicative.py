"""Multiplicative noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, normal


@dataclass(frozen=True)
class Multiplicative:
    """Noise in proportion to every single value: y = z (1 + beta * eps), eps ~ N(0, 1)."""

    beta: float = 0.3  # degree of stochasticity
    site: Literal["before-bn", "after-bn", "block", "layer-input", "penultimate"] = "before-bn"  # where it enters
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether the images of a batch share a draw

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
