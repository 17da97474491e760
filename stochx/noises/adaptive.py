"""Adaptive noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal
from stochx.noises._spread import Spread, sizes


@dataclass(frozen=True)
class Adaptive:
    """Noise scaled by the statistics of the activations (after Tan, Elovici & Binder, 2020).

        y = z + beta * s(z) * eps,  eps ~ N(0, 1)

    s(z) is the spread of a channel, of the whole layer or of a unit over a mini-batch. The paper's own formula is not
    public; with `stat=layer` and a learned beta this is the activation noise of PNI (He et al., 2019, eq. 5), its
    closest relative. In training s is the batch's. In eval mode it is the mean over training (`running`), so that
    images of a batch do not depend on each other; or the batch's, each image's, or the teacher's.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "",
        "stat=unit,source=teacher,learn=element,site=after-bn",
        "stat=layer,source=instance,measure=mean-abs,learn=channel,layers=0+3",
    )

    beta: float = 0.3  # degree of stochasticity: noise relative to the spread of the activations
    stat: Literal["channel", "layer", "unit"] = "channel"  # unit of the statistics: a spread per channel, layer or unit
    measure: Literal["std", "mean-abs"] = "std"  # measure of spread: standard deviation, or mean absolute value
    source: Literal["running", "batch", "instance", "teacher"] = "running"  # source of the statistics in eval mode
    learn: Literal["none", "layer", "channel", "element"] = "none"  # number of learned betas; none keeps beta fixed
    differentiable: bool = False  # propagate gradients through the statistics
    site: Literal["before-bn", "after-bn", "block", "input", "penultimate"] = "before-bn"  # where to add the noise
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError("beta must not be negative")
        if self.source == "instance" and self.stat == "unit":
            raise ValueError("a single image has no spread per unit: use stat=channel or stat=layer")

    def __call__(self, place: Site) -> nn.Module:
        return _Adaptive(self, place)


class _Adaptive(nn.Module):
    def __init__(self, settings: Adaptive, place: Site) -> None:
        super().__init__()
        self.share, self.differentiable = settings.share, settings.differentiable
        self.spread = Spread(place, settings.stat, settings.source, settings.measure)
        learned = settings.learn != "none"
        beta = torch.full(sizes(place, settings.learn) if learned else [], settings.beta)
        self.beta = nn.Parameter(beta, requires_grad=learned)

    def forward(self, z: Tensor) -> Tensor:
        spread: Tensor = self.spread(z) if self.differentiable else self.spread(z).detach()
        return (self.beta * spread).to(z.dtype) * normal(z, self.share)

    def fixed_std(self) -> Tensor | None:
        spread = self.spread.stored()
        return None if spread is None else self.beta * spread
