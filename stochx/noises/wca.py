"""Weight-covariance alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal
from stochx.errors import InputError


@dataclass(frozen=True)
class WCA:
    """Correlated noise on the last features, aligned with the last layer's weights (Eustratiadis et al., 2021).

        y = z + L eps,  eps ~ N(0, I);  loss - weight * ln sum_i w_i^T L L^T w_i

    with a learned lower-triangular L and the rows w_i of the last layer. The released code shares one draw in a batch;
    here each image has its own.
    """

    init: float = 0.5  # initial L, as a multiple of the identity
    weight: float = 1.0  # weight of the alignment term
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.init <= 0 or self.weight < 0:
            raise ValueError("init must be positive, and weight must not be negative")

    @property
    def site(self) -> str:
        return "penultimate"

    def __call__(self, place: Site) -> nn.Module:
        if place.axis != len(place.shape) - 1:
            raise InputError(f"`wca` needs a linear last layer, and `{place.name}` is not linear", "use another noise")
        return _WCA(self.init * torch.eye(place.shape[place.axis]), self.weight, self.share)


class _WCA(nn.Module):
    def __init__(self, factor: Tensor, weight: float, share: str) -> None:
        super().__init__()
        self.factor, self.weight, self.share = nn.Parameter(factor), weight, share

    def forward(self, z: Tensor) -> Tensor:
        return normal(z, self.share) @ self.factor.tril().to(z.dtype).T

    def penalty(self, layer: nn.Linear) -> Tensor:
        return -self.weight * (layer.weight @ self.factor.tril().to(layer.weight)).square().sum().log()
