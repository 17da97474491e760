"""Weights of a Bayesian network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal


@dataclass(frozen=True)
class Bayes:
    """Weights drawn from a learned normal distribution in every forward pass: Adv-BNN (Liu et al., 2019).

        w = mu + exp(rho) * eps,  eps ~ N(0, 1);  loss + alpha / images * KL(N(mu, exp(2 rho)) || N(0, sigma^2))

    mu are the network's own weights; the divergence is summed over layers. It already regularises the weights, so train
    with `--decay 0`. All images of a forward pass share one draw.
    """

    init: float = 0.01  # initial standard deviation of the weights; 0.1 in the paper, from random weights
    sigma: float = 0.1  # standard deviation of the prior
    alpha: float = 0.02  # weight of the KL divergence
    images: int = 50_000  # number of training images
    layers: str = "*"  # patterns of layer names to add noise to, joined by +

    def __post_init__(self) -> None:
        if self.init <= 0 or self.sigma <= 0 or self.alpha < 0 or self.images < 1:
            raise ValueError(
                "init and sigma must be positive, alpha must not be negative, and images must be at least 1"
            )

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
