"""Random normalisation aggregation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.network.sites import Site


@dataclass(frozen=True)
class RNA:
    """Random normalisation aggregation: each batch norm is drawn, as it is or by image (Dong et al., 2022).

        y = BN(x) or GN(x), each with probability 1/2

    where GN has as many groups as channels; L norms make 2^L networks. All images of a forward pass share one draw.
    Both norms have the batch norm's weight and bias, so that a student starts from its teacher; in the paper each has
    its own. There is no mean network and no degree. The published accuracies come from attacks that keep one draw,
    judged on another: they measure transfer between two draws.
    """

    replaces: ClassVar[bool] = True  # each draw replaces the value, so that the noise cannot be turned off

    chance: float = 0.5  # probability of the norm by image
    layers: str = "*"  # patterns of layer names to add noise to, joined by +

    def __post_init__(self) -> None:
        if not 0 < self.chance < 1:
            raise ValueError("chance must lie between 0 and 1")

    @property
    def site(self) -> str:
        return "norms"

    def __call__(self, place: Site) -> nn.Module:
        return _RNA(self.chance)


class _RNA(nn.Module):
    replaces = True
    drawn_per = "forward"  # two passes may agree

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, z: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the batch norm's output z, or the norm by image of its input x."""
        if float(torch.rand(())) >= self.chance:
            return z
        return F.group_norm(x, x.shape[1], weight, bias).to(z.dtype)
