"""How widely values spread: the statistic that noise strengths follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stochx.errors import InputError

FLOOR = 1e-5  # added to a variance, as batch norms do
MOMENTUM = 0.1  # share of a new batch in the running statistics


def sizes(shape: tuple[int, ...], of: str) -> list[int]:
    """The shape of one number for a whole `layer`, each `channel` (the first axis), or each `unit` or `element`."""
    if of in ("unit", "element"):
        return list(shape)
    return [1 if of == "layer" else shape[0], *[1] * (len(shape) - 1)]


class Spread(nn.Module):
    """s(z) for z (N, *shape): the standard deviation or mean absolute value of a layer, its channels or its units.

    `source`: `batch` takes it from z itself; `running` from z in training, and in use the mean of what training met;
    `teacher` keeps what was measured once; `instance` takes every image's own. `rate` is the share of a new batch in
    what is remembered, 0 where it stays.
    """

    running: Tensor

    def __init__(self, shape: tuple[int, ...], stat: str, source: str, measure: str = "std") -> None:
        super().__init__()
        self.stat, self.source, self.measure = stat, source, measure
        self.remembers = source in ("running", "teacher")
        self.rate = MOMENTUM if source == "running" else 0.0
        if self.remembers:
            self.register_buffer("running", torch.ones(sizes(shape, stat)))

    def forward(self, z: Tensor) -> Tensor:
        if self.remembers and not (self.training and self.rate):
            return self.running.to(z.dtype)
        found = self._measured(z)
        if self.remembers:
            self.running.lerp_(found.detach().to(self.running), self.rate)
        return found

    def _measured(self, z: Tensor) -> Tensor:
        alone = self.source == "instance"
        inner = list(range(1, z.dim()))
        over = {"layer": inner, "channel": inner[1:] or (inner if alone else []), "unit": []}[self.stat]
        dims = over if alone else [0, *over]
        if dims == [0] and len(z) == 1:
            raise InputError("the noise's statistics need more than one image in a batch", "use `source=running`")
        if self.measure == "mean-abs":
            found = z.abs().mean(dims, keepdim=True)
        else:
            found = (z.var(dims, correction=0, keepdim=True) + FLOOR).sqrt()
        return found if alone else found[0]
