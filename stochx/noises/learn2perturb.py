"""Learn2Perturb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, normal

LEAST = 0.01


@dataclass(frozen=True)
class Learn2Perturb:
    """A learned strength for every unit, which the loss asks to grow (Jeddi et al., 2020).

        y = z + theta * eps,  eps ~ N(0, 1),  theta >= 0.01;  loss - gamma * sum sqrt(theta)

    after the first norm and at the ends of blocks. The paper's block ends lie before the last activation, ours after
    it, since networks are not taken apart; its weight gamma falls as 1 / (1 + 1/2 + ... + 1/epoch), ours stays.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "site=after-bn")  # settings that are tested

    init: float = 0.25  # where theta starts
    gamma: float = 1e-4  # weight of the term that lets the noise grow
    site: Literal["stem-and-blocks", "block", "after-bn", "before-bn"] = "stem-and-blocks"  # where the noise enters
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether the images of a batch share a draw

    def __post_init__(self) -> None:
        if self.init < LEAST or self.gamma < 0:
            raise ValueError(f"init must be at least {LEAST}, gamma not negative")

    def __call__(self, place: Site) -> nn.Module:
        return _Learn2Perturb(torch.full(place.shape, self.init), self.gamma, self.share)


class _Learn2Perturb(nn.Module):
    def __init__(self, theta: Tensor, gamma: float, share: str) -> None:
        super().__init__()
        self.theta, self.gamma, self.share = nn.Parameter(theta), gamma, share

    def forward(self, z: Tensor) -> Tensor:
        return self._strength().to(z.dtype) * normal(z, self.share)

    def penalty(self, layer: nn.Module) -> Tensor:
        return -self.gamma * self._strength().sqrt().sum()

    def _strength(self) -> Tensor:
        self.theta.data.clamp_(min=LEAST)  # what a step brought lower gets no gradient from a clamp in the graph
        return self.theta
