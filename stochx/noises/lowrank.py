"""Low-rank noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.network.stochastic import normal
from stochx.noises._spread import Spread, sizes


@dataclass(frozen=True)
class LowRank:
    """Noise with a learned covariance between channels (after Zheltonozhskii et al., 2020).

        y = z + s(z) * (d * eps + V eta),  eps ~ N(0, I) in every channel, eta ~ N(0, I) of `rank` numbers

    at every position of an image; s is the layer's standard deviation. This is a reconstruction: the published noise is
    low-rank plus diagonal and scaled by the batch's spread; the choice of correlated units is ours.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "rank=2,site=penultimate")  # settings that are tested

    rank: int = 5  # rank of the correlated part
    init: float = 0.25  # initial value of the diagonal; V starts at random, ten times smaller
    source: Literal["running", "batch"] = "running"  # source of the statistics in eval mode
    site: Literal["before-bn", "after-bn", "block", "layer-input", "penultimate"] = "before-bn"  # where it is added
    layers: str = "*"  # patterns of layer names to add noise to, joined by +
    share: Literal["none", "batch"] = "none"  # images that share a draw: none, or the whole batch

    def __post_init__(self) -> None:
        if self.rank < 1 or self.init < 0:
            raise ValueError("rank must be at least 1, and init must not be negative")

    def __call__(self, place: Site) -> nn.Module:
        return _LowRank(self, place)


class _LowRank(nn.Module):
    def __init__(self, settings: LowRank, place: Site) -> None:
        super().__init__()
        channels = place.shape[place.axis]
        self.share, self.axis = settings.share, place.axis + 1
        self.spread = Spread(place, "layer", settings.source)
        self.diagonal = nn.Parameter(torch.full(sizes(place, "channel"), settings.init))
        self.factor = nn.Parameter(0.1 * settings.init * torch.randn(channels, settings.rank))

    def forward(self, z: Tensor) -> Tensor:
        channels_first = z.movedim(self.axis, 1)
        eta = normal(channels_first[:, :1].expand(-1, self.factor.shape[1], *channels_first.shape[2:]), self.share)
        common = torch.einsum("cr,nr...->nc...", self.factor.to(z.dtype), eta).movedim(1, self.axis)
        spread: Tensor = self.spread(z).detach()
        return spread * (self.diagonal.to(z.dtype) * normal(z, self.share) + common)
