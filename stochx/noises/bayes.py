"""A Bayesian network's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, normal


@dataclass(frozen=True)
class Bayes:
    """Weights drawn from a learned normal distribution in every forward: Adv-BNN (Liu et al., 2019).

        w = mu + exp(rho) * eps,  eps ~ N(0, 1);  loss + alpha / images * KL(N(mu, exp(2 rho)) || N(0, sigma^2))

    mu are the network's own weights; the divergence is that of all layers. It holds the weights near zero by itself:
    train with `--decay 0`. One draw serves all images of a forward.
    """

    init: float = 0.01  # standard deviation that weights start with; the paper, from random weights: 0.1
    sigma: float = 0.1  # standard deviation of the prior
    alpha: float = 0.02  # weight of the divergence
    images: int = 50_000  # of the training set
    layers: str = "*"  # pattern of layer names, several joined by +

    def __post_init__(self) -> None:
        if self.init <= 0 or self.sigma <= 0 or self.alpha < 0 or self.images < 1:
            raise ValueError("init and sigma must be positive, alpha not negative, images at least 1")

    @property
    def site(self) -> str:
        return "weight"

    def __call__(self, place: Site) -> nn.Module:
        return _Bayes(torch.full(place.shape, math.log(self.init)), self.sigma, self.alpha / self.images)


class _Bayes(nn.Module):
    def __init__(self, rho: Tensor, sigma: float, weight: float) -> None:
        super().__init__()
        self.rho, self.sigma, self.weight = nn.Parameter(rho), sigma, weight

    def forward(self, mu: Tensor) -> Tensor:
        return self.rho.exp().to(mu.dtype) * normal(mu, "none")

    def penalty(self, layer: nn.Linear) -> Tensor:
        moments = ((2 * self.rho).exp() + layer.weight.square()) / (2 * self.sigma**2)
        return self.weight * (math.log(self.sigma) - self.rho + moments - 0.5).sum()
