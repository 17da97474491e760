"""Spread of values: the statistic that scales the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stochx.engine.network.sites import Site
from stochx.engine.whole import is_shared, whole_mean, whole_variance
from stochx.errors import InputError

FLOOR = 1e-5  # added to a variance, as in batch norms
MOMENTUM = 0.1  # weight of a new batch in the running statistics


def sizes(place: Site, of: str) -> list[int]:
    """Return the shape of one number per `layer`, per `channel`, or per `unit` or `element`."""
    whole = of in ("unit", "element")
    return [size if whole or (of == "channel" and k == place.axis) else 1 for k, size in enumerate(place.shape)]


def of_channels(z: Tensor, axis: int) -> Tensor:
    """Return one value for each image and channel of z (N, ...), whose channels are its `axis`; other axes become 1."""
    for dim in range(1, z.dim()):
        z = z if dim == axis else z.narrow(dim, 0, 1)
    return z


class Spread(nn.Module):
    """s(z) for z (N, *shape): the standard deviation or mean absolute value of a layer, its channels or its units.

    `source`: `batch` uses z itself; `running` uses z in training and the running mean in eval mode; `teacher` keeps the
    statistics measured once; `instance` uses those of each image. `rate` is the weight of a new batch in the stored
    statistics, 0 if they are fixed.
    """

    running: Tensor

    def __init__(self, place: Site, stat: str, source: str, measure: str = "std") -> None:
        super().__init__()
        self.stat, self.source, self.measure, self.axis = stat, source, measure, place.axis
        self.remembers = source in ("running", "teacher")
        self.rate = MOMENTUM if source == "running" else 0.0
        if self.remembers:
            self.register_buffer("running", torch.ones(sizes(place, stat)))

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
        others = [dim for dim in inner if dim != self.axis + 1]
        over = {"layer": inner, "channel": others or (inner if alone else []), "unit": []}[self.stat]
        dims = over if alone else [0, *over]
        if dims == [0] and len(z) == 1 and not is_shared():
            raise InputError("statistics of the noise need more than one image per batch", "use `source=running`")
        if alone:
            mean_abs = self.measure == "mean-abs"
            return z.abs().mean(dims, keepdim=True) if mean_abs else _std(z.var(dims, correction=0, keepdim=True))
        return (whole_mean(z.abs(), dims) if self.measure == "mean-abs" else _std(whole_variance(z, dims)))[0]


def _std(variance: Tensor) -> Tensor:
    return (variance + FLOOR).sqrt()
