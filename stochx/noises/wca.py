"""Weight-covariance alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, normal
from stochx.errors import InputError


@dataclass(frozen=True)
class WCA:
    """Correlated noise on the last features, drawn towards the last layer's weights (Eustratiadis et al., 2021).

        y = z + L eps,  eps ~ N(0, I);  loss - weight * ln sum_i w_i^T L L^T w_i

    with a learned lower-triangular L and the rows w_i of the last layer. The released code shares one draw in a
    batch; here every image has its own.
    """

    init: float = 0.5  # L starts as so many times the identity
    weight: float = 1.0  # of the term that aligns noise and weights
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether the images of a batch share a draw

    def __post_init__(self) -> None:
        if self.init <= 0 or self.weight < 0:
            raise ValueError("init must be positive, weight not negative")

    @property
    def site(self) -> str:
        return "penultimate"

    def __call__(self, place: Site) -> nn.Module:
        if len(place.shape) != 1:
            raise InputError(f"`wca` needs a linear last layer, `{place.name}` is none", "use another noise")
        return _WCA(self.init * torch.eye(place.shape[0]), self.weight, self.share)


class _WCA(nn.Module):
    def __init__(self, factor: Tensor, weight: float, share: str) -> None:
        super().__init__()
        self.factor, self.weight, self.share = nn.Parameter(factor), weight, share

    def forward(self, z: Tensor) -> Tensor:
        return normal(z, self.share) @ self.factor.tril().to(z.dtype).T

    def penalty(self, layer: nn.Linear) -> Tensor:
        return -self.weight * (layer.weight @ self.factor.tril()).square().sum().log()
