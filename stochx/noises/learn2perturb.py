"""Learn2Perturb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal

MINIMUM = 0.01


@dataclass(frozen=True)
class Learn2Perturb:
    """A learned noise strength per unit, which the loss encourages to grow (Jeddi et al., 2020).

        y = z + theta * eps,  eps ~ N(0, 1),  theta >= 0.01;  loss - gamma * sum sqrt(theta)

    after the first norm and at the ends of blocks. The paper's block ends lie before the last activation, here after
    it, since blocks are not taken apart; its gamma decays as 1 / (1 + 1/2 + ... + 1/epoch), here it is constant.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "site=after-bn")  # settings that are tested

    init: float = 0.25  # initial value of theta
    gamma: float = 1e-4  # weight of the term that encourages noise
    site: Literal["stem-and-blocks", "block", "after-bn", "before-bn"] = "stem-and-blocks"  # where to add the noise
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.init < MINIMUM or self.gamma < 0:
            raise ValueError(f"init must be at least {MINIMUM}, and gamma must not be negative")

    def __call__(self, place: Site) -> nn.Module:
        return _Learn2Perturb(torch.full(place.shape, self.init), self.gamma, self.share)


class _Learn2Perturb(nn.Module):
    def __init__(self, theta: Tensor, gamma: float, share: str) -> None:
        super().__init__()
        self.theta, self.gamma, self.share = nn.Parameter(theta), gamma, share

    def forward(self, z: Tensor) -> Tensor:
        return self._strength().to(z.dtype) * normal(z, self.share)

    def fixed_std(self) -> Tensor:
        return self._strength()

    def penalty(self, layer: nn.Module) -> Tensor:
        return -self.gamma * self._strength().sqrt().sum()

    def _strength(self) -> Tensor:
        self.theta.data.clamp_(min=MINIMUM)  # a clamp in the graph would give values below it no gradient
        return self.theta
