"""The threat model: the set of allowed perturbations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stochx.engine.seeds import Key, generator

Norm = Literal["linf", "l2", "l1"]
SPARSE = 0.01  # share of the values that one L1 step changes (Tramer & Boneh, 2019)
TINY = 1e-12
ROUNDING = 2.5e-7  # rounding error of a float32 value in [0, 1] after a step or projection


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of a centre in a norm, and within [0, 1]; lengths are in units of pixel intensity."""

    eps: float
    norm: Norm = "linf"

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        """Return the nearest point to x, (N, C, H, W).

        In L2 it is the nearest point of the ball, then clipped, which never increases the distance from the centre; in
        L1 clipping would waste much of the radius.
        """
        return project_each(x, center, center.new_full((1,), self.eps), self.norm)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the direction of steepest ascent, of length 1; in L1 spread over 1 % of the values."""
        return ASCENTS[self.norm](gradient)

    def sample(self, center: Tensor, keys: Sequence[Key], index: int) -> Tensor:
        """Return a random point around each centre that depends on its key and on `index` alone.

        Uniform in the ball for Linf and L2; in L1 along rays of exponential values; then clipped to [0, 1].
        """
        offsets = torch.stack([_draw(center, key, index, self.norm) for key in keys])
        return (center + self.eps * offsets).clamp(0, 1)

    def length(self, x: Tensor, center: Tensor) -> Tensor:
        """Return the distance (N,) of each x from its centre."""
        return norm_of((x - center).flatten(1), self.norm)

    def holds(self, x: Tensor, center: Tensor) -> Tensor:
        """Return a mask (N,) of the x in the ball and in [0, 1], up to the rounding of each value."""
        rounding = norm_of(torch.full_like(center[:1], ROUNDING).flatten(1), self.norm)
        rows = x.flatten(1)
        inside = (rows.amin(1) >= 0) & (rows.amax(1) <= 1)
        return inside & (self.length(x, center) <= self.eps + rounding)


def norm_of(rows: Tensor, norm: Norm) -> Tensor:
    """Return the norm (N,) of each row (N, D)."""
    if norm == "l1":
        return rows.abs().sum(1)  # pairwise summation: torch's norm is a thousand times less accurate
    if norm == "linf":
        return rows.abs().amax(1)  # torch's norm takes ten times as long
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return length


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def project_each(x: Tensor, center: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Project as `Ball.project` does, with a radius `eps` (N,) for each image."""
    return (center + LIMITS[norm](x - center, center, _wide(eps))).clamp(0, 1)


def _limit_l2(delta: Tensor, center: Tensor, eps: Tensor) -> Tensor:
    return delta * (eps / _wide(norm_of(delta.flatten(1), "l2").clamp(min=TINY))).clamp(max=1)


def _limit_l1(delta: Tensor, center: Tensor, eps: Tensor) -> Tensor:
    """Project onto the ball and [0, 1]: a soft threshold, clipped at the ends of [0, 1] (Croce & Hein, 2021).

    The threshold is the smallest one that brings the length to eps, or 0; it is found by bisection.
    """
    room = torch.where(delta > 0, 1 - center, center).flatten(1)
    size = delta.flatten(1).abs()
    eps = eps.flatten(1)

    def cut(threshold: Tensor) -> Tensor:
        return (size - threshold).clamp(min=0).minimum(room)

    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    high = torch.where(cut(low).sum(1, keepdim=True) <= eps, low, high)
    for _ in range(torch.finfo(size.dtype).bits):
        middle = (low + high) / 2
        outside = cut(middle).sum(1, keepdim=True) > eps
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return delta.sign() * cut(high).view_as(delta)


def _unit_l2(gradient: Tensor) -> Tensor:
    """Scale to length 1, after dividing by the largest value, since squares of tiny gradients underflow."""
    largest = _wide(norm_of(gradient.flatten(1), "linf"))
    scaled = gradient / largest.where(largest > 0, 1.0)
    return scaled / _wide(norm_of(scaled.flatten(1), "l2").clamp(min=TINY))


def sparse_sign(gradient: Tensor, count: Tensor) -> Tensor:
    """Return the signs of each image's `count` (N,) largest values, at least one, scaled to an L1 norm of 1."""
    size = gradient.flatten(1).abs()
    whole = count.round().clamp(min=1)[:, None]
    weight = (torch.arange(size.shape[1], device=size.device) < whole) / whole
    return gradient.sign() * torch.zeros_like(size).scatter_(
        1, size.argsort(dim=1, descending=True), weight.to(size)
    ).view_as(gradient)


DUALS: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
LIMITS: dict[Norm, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": lambda delta, center, eps: delta.clamp(-eps, eps),
    "l2": _limit_l2,
    "l1": _limit_l1,
}
ASCENTS: dict[Norm, Callable[[Tensor], Tensor]] = {
    "linf": torch.sign,
    "l2": _unit_l2,
    "l1": lambda gradient: sparse_sign(gradient, torch.full_like(gradient[:, 0, 0, 0], SPARSE * gradient[0].numel())),
}


def _draw(like: Tensor, key: Key, index: int, norm: Norm) -> Tensor:
    """Draw a point (C, H, W) of the unit ball."""
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
