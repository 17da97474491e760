"""Parametric noise injection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, normal
from stochx.noises._spread import Spread, sizes

SITES = {"weight": "weight", "activation": "before-bn", "input": "layer-input"}


@dataclass(frozen=True)
class PNI:
    """Parametric noise injection: its strength is learned with the weights (He, Rakin & Fan, 2019, eq. 1 to 5).

        y = v + alpha * std(v) * eps,  eps ~ N(0, 1)

    on weights (one draw a forward), activations or inputs of layers; std over all of v, for activations over a whole
    mini-batch, and no gradient goes through it. It needs adversarial training: on clean images alone alpha tends to 0.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "",
        "on=activation,granularity=element",
        "on=input,granularity=channel,source=batch",
    )

    on: Literal["weight", "activation", "input"] = "weight"  # what gets the noise
    granularity: Literal["layer", "channel", "element"] = "layer"  # what has an alpha of its own
    alpha: float = 0.25  # where alpha starts
    source: Literal["running", "batch"] = "running"  # statistics of activations in use: of training, or the batch's own
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether images share a draw of activations; of weights all do

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError("alpha must not be negative")

    @property
    def site(self) -> str:
        return SITES[self.on]

    def __call__(self, place: Site) -> nn.Module:
        alpha = torch.full(sizes(place.shape, self.granularity), self.alpha)
        if self.on == "weight":
            return _PNI(alpha, None, "none")
        return _PNI(alpha, Spread(place.shape, "layer", self.source), self.share)


class _PNI(nn.Module):
    def __init__(self, alpha: Tensor, spread: Spread | None, share: str) -> None:
        super().__init__()
        self.alpha, self.spread, self.share = nn.Parameter(alpha), spread, share

    def forward(self, v: Tensor) -> Tensor:
        spread = v.detach().std() if self.spread is None else self.spread(v).detach()
        return (self.alpha * spread).to(v.dtype) * normal(v, self.share)
