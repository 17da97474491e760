"""Adaptive noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.stochastic import Site, normal
from stochx.errors import InputError

FLOOR = 1e-5  # added to a variance, as batch norms do


@dataclass(frozen=True)
class Adaptive:
    """Noise whose strength follows the statistics of what passes (after Tan, Elovici & Binder, 2020).

        y = z + beta * s(z) * eps,  eps ~ N(0, 1)

    s(z) is the spread of a channel, of the whole layer or of a unit over a mini-batch. The paper's own formula is not
    public; with `stat=layer` and a learned beta this is PNI's activation noise (He et al., 2019, eq. 5), its closest
    kin. In training s is the batch's; in use it is the mean of training (`running`), so that images of a batch do not
    depend on each other, or the batch's own, or each image's own, or what the teacher had (`teacher`).
    """

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
    spread: Tensor

    def __init__(self, settings: Adaptive, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.settings = settings
        self.rate = 0.0 if settings.source == "teacher" else 0.1
        sizes = {"layer": [1] * len(shape), "channel": [shape[0], *[1] * (len(shape) - 1)], "unit": list(shape)}
        if settings.source in ("running", "teacher"):
            self.register_buffer("spread", torch.ones(sizes[settings.stat]))
        if settings.learn != "none":
            learnt = sizes["unit" if settings.learn == "element" else settings.learn]
            self.beta = nn.Parameter(torch.full(learnt, settings.beta))
        else:
            self.beta = settings.beta  # type: ignore[assignment]

    def forward(self, z: Tensor) -> Tensor:
        spread = self._spread(z).to(z.dtype)
        return (
            self.beta * (spread if self.settings.differentiable else spread.detach()) * normal(z, self.settings.share)
        )

    def _spread(self, z: Tensor) -> Tensor:
        source = self.settings.source
        if source in ("running", "teacher") and not (self.training and self.rate):
            return self.spread
        found = self._measured(z)
        if source in ("running", "teacher"):
            self.spread.lerp_(found.detach().to(self.spread), self.rate)
        return found

    def _measured(self, z: Tensor) -> Tensor:
        """The statistic of z (N, C, H, W) or (N, D): broadcasts against z."""
        per_image = self.settings.source == "instance"
        inner = list(range(1, z.dim()))
        over = {"layer": inner, "channel": inner[1:] if not per_image or z.dim() > 2 else inner, "unit": []}
        dims = over[self.settings.stat] if per_image else [0, *over[self.settings.stat]]
        if dims == [0] and len(z) == 1:
            raise InputError("the noise's statistics need more than one image in a batch", "use `source=running`")
        if self.settings.measure == "mean-abs":
            found = z.abs().mean(dims, keepdim=True)
        else:
            found = (z.var(dims, correction=0, keepdim=True) + FLOOR).sqrt()
        return found if per_image else found[0]
