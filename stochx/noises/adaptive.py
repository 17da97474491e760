"""Adaptive noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.stochastic import Site, normal
from stochx.noises._spread import Spread, sizes


@dataclass(frozen=True)
class Adaptive:
    """Noise whose strength follows the statistics of what passes (after Tan, Elovici & Binder, 2020).

        y = z + beta * s(z) * eps,  eps ~ N(0, 1)

    s(z) is the spread of a channel, of the whole layer or of a unit over a mini-batch. The paper's own formula is not
    public; with `stat=layer` and a learned beta this is PNI's activation noise (He et al., 2019, eq. 5), its closest
    kin. In training s is the batch's; in use it is the mean of training (`running`), so that images of a batch do not
    depend on each other, or the batch's own, or each image's own, or what the teacher had (`teacher`).
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "",
        "stat=unit,source=teacher,learn=element,site=after-bn",
        "stat=layer,source=instance,measure=mean-abs,learn=channel,layers=0+3",
    )

    beta: float = 0.3  # degree of stochasticity: the noise over the spread of what passes
    stat: Literal["channel", "layer", "unit"] = "channel"  # what has a spread of its own
    measure: Literal["std", "mean-abs"] = "std"  # standard deviation, or mean absolute value
    source: Literal["running", "batch", "instance", "teacher"] = "running"  # whose statistics are used
    learn: Literal["none", "layer", "channel", "element"] = "none"  # whether beta is trained, and how many there are
    differentiable: bool = False  # whether gradients go through the statistics
    site: Literal["before-bn", "after-bn", "block", "input", "penultimate"] = "before-bn"  # where the noise enters
    layers: str = "*"  # pattern of layer names, several joined by +
    share: Literal["none", "batch"] = "none"  # whether the images of a batch share a draw

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError("beta must not be negative")
        if self.source == "instance" and self.stat == "unit":
            raise ValueError("a unit of one image has no spread: use stat=channel or stat=layer")

    def __call__(self, place: Site) -> nn.Module:
        return _Adaptive(self, place.shape)


class _Adaptive(nn.Module):
    def __init__(self, settings: Adaptive, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.share, self.differentiable = settings.share, settings.differentiable
        self.spread = Spread(shape, settings.stat, settings.source, settings.measure)
        learnt = settings.learn != "none"
        beta = torch.full(sizes(shape, settings.learn) if learnt else [], settings.beta)
        self.beta = nn.Parameter(beta, requires_grad=learnt)

    def forward(self, z: Tensor) -> Tensor:
        spread: Tensor = self.spread(z) if self.differentiable else self.spread(z).detach()
        return (self.beta * spread).to(z.dtype) * normal(z, self.share)
