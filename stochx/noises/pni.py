"""Parametric noise injection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal
from stochx.noises._spread import Spread, sizes

SITES = {"weight": "weight", "activation": "before-bn", "input": "layer-input"}


@dataclass(frozen=True)
class PNI:
    """Parametric noise injection: noise whose strength is learned with the weights (He, Rakin & Fan, 2019, eq. 1-5).

        y = v + alpha * std(v) * eps,  eps ~ N(0, 1)

    on weights (one draw per forward pass), activations or inputs of layers. std is over all of v, for activations over
    the mini-batch, without gradients. It needs adversarial training: on clean images alone alpha tends to 0.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "",
        "on=activation,granularity=element",
        "on=input,granularity=channel,source=batch",
    )

    on: Literal["weight", "activation", "input"] = "weight"  # where to add the noise
    granularity: Literal["layer", "channel", "element"] = "layer"  # number of alphas: one per layer, channel or element
    alpha: float = 0.25  # initial value of alpha
    source: Literal["running", "batch"] = "running"  # source of the statistics of activations in eval mode
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw on activations (weights: always all)

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError("alpha must not be negative")

    @property
    def site(self) -> str:
        return SITES[self.on]

    def __call__(self, place: Site) -> nn.Module:
        alpha = torch.full(sizes(place, self.granularity), self.alpha)
        if self.on == "weight":
            return _PNI(alpha, None, "none")
        return _PNI(alpha, Spread(place, "layer", self.source), self.share)


class _PNI(nn.Module):
    def __init__(self, alpha: Tensor, spread: Spread | None, share: str) -> None:
        super().__init__()
        self.alpha, self.spread, self.share = nn.Parameter(alpha), spread, share

    def forward(self, v: Tensor) -> Tensor:
        spread = v.detach().std() if self.spread is None else self.spread(v).detach()
        return (self.alpha * spread).to(v.dtype) * normal(v, self.share)

    def fixed_std(self) -> Tensor | None:
        spread = None if self.spread is None else self.spread.stored()
        return None if spread is None else self.alpha * spread
