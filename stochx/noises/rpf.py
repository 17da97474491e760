"""Random projection filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal
from stochx.errors import InputError

TINY = 1e-5


@dataclass(frozen=True)
class RPF:
    """Random projection filters in the first convolution (Dong & Xu, 2023).

        w_random ~ N(0, 1 / k^2),  w_learned <- w / ((std(w) + 1e-5) k)

    for kernels of k x k pixels, with the std of each filter; all images of a forward pass share one draw. The mean
    of a random filter is 0, so that the noise can be neither scaled nor turned off. A student has to be trained before
    it is of any use. The published accuracies come from attacks that keep one draw, judged on
    another: they measure transfer between two draws. Under EOT the network is less robust than plain adversarial
    training.
    """

    replaces: ClassVar[bool] = True  # each draw replaces the value, so that the noise cannot be turned off

    random: float = 0.75  # share of the filters that are drawn
    layers: str = "*"  # patterns of layer names to add noise to, joined by +

    def __post_init__(self) -> None:
        if not 0 < self.random < 1:
            raise ValueError("random must lie between 0 and 1")

    @property
    def site(self) -> str:
        return "first-weight"

    def __call__(self, place: Site) -> nn.Module:
        if len(place.shape) != 4 or place.shape[0] < 2:
            raise InputError(f"`rpf` needs a first convolution, and `{place.name}` is none", "use another noise")
        return _RPF(min(place.shape[0] - 1, max(1, round(self.random * place.shape[0]))))


class _RPF(nn.Module):
    replaces = True

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, w: Tensor) -> Tensor:
        k = (w.shape[2] * w.shape[3]) ** 0.5
        learned = w[self.count :]
        spread = learned.flatten(1).std(1).view(-1, 1, 1, 1) + TINY
        return torch.cat([normal(w[: self.count], "none") / k, learned / (spread * k)]).to(w.dtype)
