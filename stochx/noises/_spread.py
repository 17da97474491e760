"""Spread of values: the statistic that scales the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stochx.errors import InputError

FLOOR = 1e-5  # added to a variance, as in batch norms
MOMENTUM = 0.1  # weight of a new batch in the running statistics


def sizes(shape: tuple[int, ...], of: str) -> list[int]:
    """Return the shape of one number per `layer`, per `channel` (the first axis), or per `unit` or `element`."""
    if of in ("unit", "element"):
        return list(shape)
    return [1 if of == "layer" else shape[0], *[1] * (len(shape) - 1)]


class Spread(nn.Module):
    """s(z) for z (N, *shape): the standard deviation or mean absolute value of a layer, its channels or its units.

    `source`: `batch` uses z itself; `running` uses z in training and the running mean in eval mode; `teacher` keeps the
    statistics measured once; `instance` uses those of each image. `rate` is the weight of a new batch in the stored
    statistics, 0 if they are fixed.
    """

    running: Tensor

    def __init__(self, shape: tuple[int, ...], stat: str, source: str, measure: str = "std") -> None:
        super().__init__()
        self.stat, self.source, self.measure = stat, source, measure
        self.remembers = source in ("running", "teacher")
        self.rate = MOMENTUM if source == "running" else 0.0
        if self.remembers:
            self.register_buffer("running", torch.ones(sizes(shape, stat)))

    def stored(self) -> Tensor | None:
        """Return the stored statistics, where they are used and do not change; otherwise None."""
        return self.running if self.remembers and not (self.training and self.rate) else None

    def forward(self, z: Tensor) -> Tensor:
        if (stored := self.stored()) is not None:
            return stored.to(z.dtype)
        spread = self._measured(z)
        if self.remembers:
            self.running.lerp_(spread.detach().to(self.running), self.rate)
        return spread

    def _measured(self, z: Tensor) -> Tensor:
        alone = self.source == "instance"
        inner = list(range(1, z.dim()))
        over = {"layer": inner, "channel": inner[1:] or (inner if alone else []), "unit": []}[self.stat]
        dims = over if alone else [0, *over]
        if dims == [0] and len(z) == 1:
            raise InputError("statistics of the noise need more than one image per batch", "use `source=running`")
        if self.measure == "mean-abs":
            spread = z.abs().mean(dims, keepdim=True)
        else:
            spread = (z.var(dims, correction=0, keepdim=True) + FLOOR).sqrt()
        return spread if alone else spread[0]
