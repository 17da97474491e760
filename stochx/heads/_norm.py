"""Batch norm over single episodes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.whole import shared_by, whole_mean
from stochx.engine.world import World

Statistics = Literal["batch", "running"]
FLOOR, MOMENTUM = 1e-5, 0.1


class EpisodeNorm(nn.Module):
    """Normalises (E, B, C, ...) by the mean and variance of each channel in each of E episodes.

    With `running` statistics, eval mode uses those of training, so that images do not depend on each other.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, statistics: Statistics) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.running = self.track_running_stats = statistics == "running"
        if self.running:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.running and not self.training:
            joined = x.flatten(0, 1)
            out = F.batch_norm(joined, self.running_mean, self.running_var, self.weight, self.bias, eps=FLOOR)
            return out.view(x.shape)
        episodes, channels = x.shape[0], x.shape[2]
        joined = x.transpose(0, 1).flatten(1, 2)  # one channel for each pair of channel and episode
        affine = self.weight.repeat(episodes), self.bias.repeat(episodes)
        mean, var = torch.zeros_like(affine[0]), torch.ones_like(affine[0])
        with shared_by(World()):  # an episode is whole on its rank
            out = F.batch_norm(joined, mean, var, *affine, training=True, momentum=1.0, eps=FLOOR)
        self._remember(mean.view(episodes, channels), var.view(episodes, channels))
        return torch.unflatten(out, 1, (episodes, channels)).transpose(0, 1)

    def affine(self, mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the equivalent scale and shift (E, C), from mean and biased variance (E, C) over `count` values."""
        if self.running and not self.training:
            mean, var = self.running_mean.expand_as(mean), self.running_var.expand_as(var)
        else:
            self._remember(mean.detach(), var.detach() * (count / max(count - 1, 1)))
        scale = self.weight * (var + FLOOR).rsqrt()
        return scale, self.bias - mean * scale

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.track_running_stats:
            self.running_mean.lerp_(whole_mean(mean, [0])[0].to(self.running_mean), MOMENTUM)
            self.running_var.lerp_(whole_mean(var, [0])[0].to(self.running_var), MOMENTUM)
