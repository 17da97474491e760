"""Constrained trainable random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal


@dataclass(frozen=True)
class CTRW:
    """Random weights of the first layer with a learned, bounded spread (Ma et al., 2023).

        W = mu + sigma * delta,  delta ~ N(0, 1),  A <= sum of sigma <= B

    mu are the network's own weights. Without the bounds sigma tends to 0: where their sum is out of bounds, all sigmas
    are scaled to the nearest one. The paper's bounds are absolute numbers; here they are relative to the weights,
    A = low * std(mu) * (number of weights), as otherwise mu would outgrow them. All images of a forward pass share one
    draw. Published gains of this kind shrink under EOT; see `rpf`.
    """

    init: float = 0.3  # initial sigma, relative to the standard deviation of the weights
    low: float = 0.2  # least mean sigma, relative to it
    high: float = 1.0  # greatest mean sigma, relative to it
    layers: str = "*"  # patterns of layer names to add noise to, joined by +

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.init <= self.high:
            raise ValueError("low, init and high must be positive and in this order")

    @property
    def site(self) -> str:
        return "first-weight"

    def __call__(self, place: Site) -> nn.Module:
        return _CTRW(torch.full(place.shape, math.log(self.init)), self.low, self.high)


class _CTRW(nn.Module):
    def __init__(self, rho: Tensor, low: float, high: float) -> None:
        super().__init__()
        self.rho, self.low, self.high = nn.Parameter(rho), low, high

    def forward(self, mu: Tensor) -> Tensor:
        sigma = self.rho.exp()
        sigma = sigma * (sigma.mean().clamp(self.low, self.high) / sigma.mean())
        return (mu.detach().std() * sigma).to(mu.dtype) * normal(mu, "none")
