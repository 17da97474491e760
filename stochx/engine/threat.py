"""The threat model: which changed images count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator

Norm = Literal["linf", "l2", "l1"]
SPARSE = 0.05  # share of the pixels' values that one step in L1 moves
TINY = 1e-12


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of a centre in a norm, and within [0, 1]; lengths are in units of pixel intensity."""

    eps: float
    norm: Norm = "linf"

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        """The nearest point of the ball to x, clipped to [0, 1]: (N, C, H, W). Clipping brings it no farther away."""
        return (center + LIMITS[self.norm](x - center, self.eps)).clamp(0, 1)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The step of length 1 along which a loss of this gradient rises most; in L1 spread over 5 % of the values."""
        return ASCENTS[self.norm](gradient)

    def sample(self, center: Tensor, keys: Sequence[Key], index: int) -> Tensor:
        """A random point for each centre, which depends on its key and on `index` alone.

        Uniform in Linf; in L2 uniform in the ball, in L1 on rays of exponential values; then clipped to [0, 1].
        """
        drawn = torch.stack([_draw(center, key, index, self.norm) for key in keys])
        return (center + self.eps * drawn).clamp(0, 1)

    def length(self, x: Tensor, center: Tensor) -> Tensor:
        """How far each x is from its centre: (N,)."""
        return norm_of((x - center).flatten(1), self.norm)


def norm_of(rows: Tensor, norm: Norm) -> Tensor:
    """The norm of each row: (N, D) -> (N,)."""
    order = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}[norm]
    length: Tensor = torch.linalg.vector_norm(rows, order, dim=1)
    return length


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _limit_l2(delta: Tensor, eps: float) -> Tensor:
    return delta * _wide((eps / norm_of(delta.flatten(1), "l2").clamp(min=TINY)).clamp(max=1))


def _limit_l1(delta: Tensor, eps: float) -> Tensor:
    """The nearest point in the L1 ball: a soft threshold, found by sorting (Duchi et al., 2008)."""
    size = delta.flatten(1).abs()
    falling = size.sort(dim=1, descending=True).values
    excess = falling.cumsum(1) - eps
    count = torch.arange(1, size.shape[1] + 1, device=size.device, dtype=size.dtype)
    last = ((falling * count > excess).sum(1, keepdim=True) - 1).clamp(min=0)
    threshold = (excess.gather(1, last) / (last + 1)).clamp(min=0)
    return delta.sign() * (size - threshold).clamp(min=0).view_as(delta)


def _unit_l2(gradient: Tensor) -> Tensor:
    """Of length 1; first scaled by its largest value, since squares of a saturated loss's gradient vanish."""
    largest = _wide(norm_of(gradient.flatten(1), "linf"))
    scaled = gradient / largest.where(largest > 0, 1.0)
    return scaled / _wide(norm_of(scaled.flatten(1), "l2").clamp(min=TINY))


def _sparse_sign(gradient: Tensor) -> Tensor:
    size = gradient.flatten(1).abs()
    count = max(1, round(SPARSE * size.shape[1]))
    strongest = torch.zeros_like(size).scatter_(1, size.topk(count, dim=1).indices, 1 / count)
    return gradient.sign() * strongest.view_as(gradient)


LIMITS: dict[Norm, Callable[[Tensor, float], Tensor]] = {
    "linf": lambda delta, eps: delta.clamp(-eps, eps),
    "l2": _limit_l2,
    "l1": _limit_l1,
}
ASCENTS: dict[Norm, Callable[[Tensor], Tensor]] = {
    "linf": torch.sign,
    "l2": _unit_l2,
    "l1": _sparse_sign,
}


def _draw(like: Tensor, key: Key, index: int, norm: Norm) -> Tensor:
    """A point of the unit ball, (C, H, W)."""
    source = generator(key, "start", index, device=like.device)
    empty = torch.empty(like.shape[1:], device=like.device)
    if norm == "linf":
        return empty.uniform_(-1, 1, generator=source).to(like.dtype)
    direction = empty.normal_(generator=source)
    if norm == "l1":
        direction = direction.sign() * torch.empty_like(direction).exponential_(generator=source)
    radius = torch.empty((), device=like.device).uniform_(generator=source)
    radius = radius ** (1 / direction.numel()) if norm == "l2" else radius
    return (radius * direction / norm_of(direction.flatten()[None], norm)).to(like.dtype)
