"""Guided integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import gradient, scores
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class GuidedIG:
    """Integrated gradients on a path that first changes what matters least (Kapishnikov et al., 2021).

        sum_s (z_s+1 - z_s) * gradient(z_s)

    Each step comes nearer to x by 1 / steps of the L1 distance from the baseline. It moves the `fraction` of values
    with the smallest absolute gradient, as far as they may, then the next, until the distance is covered. A value may
    be ahead of the straight path by `distance` of its way, and behind it by as much. `distance=0` is `ig:rule=left`.
    Complete up to the quadrature error, which `gap` reports. Each step waits for the gradient of the one before: only
    several images at once are faster.
    """

    examples: ClassVar[tuple[str, ...]] = ("steps=6",)  # settings that are tested
    remedy: ClassVar[str] = "use more `steps`"  # what makes a map more complete

    steps: int = 200  # steps of the path, one gradient each
    fraction: float = 0.25  # share of the values that move first
    distance: float = 0.02  # how far values may be ahead of the straight path or behind it, as a share of their way
    baseline: Literal["black", "white", "mean", "blur"] = "black"  # baseline image, without evidence
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        if not 0 < self.fraction <= 1:
            raise ValueError("fraction must lie in (0, 1]")
        if not 0 <= self.distance <= 1:
            raise ValueError("distance must lie in [0, 1]")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        start = BASELINES[self.baseline](x)
        way = (x - start).flatten(1)
        done, total = torch.zeros_like(way), torch.zeros_like(way)  # share of its way that each value has gone
        for step in range(self.steps):
            points = start + (done * way).view_as(x)
            slope = gradient(model, points, target, self.backward).flatten(1)
            after = self._moved(done, way.abs(), slope.abs(), (step + 1) / self.steps)
            total += (after - done) * way * slope
            done = after
        gap = None
        if self.backward == "plain":
            gap = total.sum(1) - (scores(model, x, target) - scores(model, start, target))
        return Explanation(total.view_as(x), gap=gap, used=torch.full((len(x),), self.steps))

    def _moved(self, done: Tensor, way: Tensor, slope: Tensor, share: float) -> Tensor:
        """Return the shares (N, D) that values have gone, of ways (N, D), once `share` of all ways is covered."""
        low, high = max(share - self.distance, 0.0), min(share + self.distance, 1.0)
        done = done.clamp(min=low)
        place = int(self.fraction * (done.shape[1] - 1))
        going = torch.ones_like(done[:, :1], dtype=torch.bool)
        while True:
            free = going & (done < high) & (way > 0)
            missing = (way * (share - done)).sum(1, keepdim=True)
            least = slope.where(free, torch.inf).kthvalue(place + 1, dim=1, keepdim=True).values
            chosen = free & (slope <= least) & (missing > 0)
            room = (way * (high - done) * chosen).sum(1, keepdim=True)
            if not (room > 0).any():
                return done
            part = (missing / room).clamp(max=1)
            done = torch.where(chosen, torch.where(part < 1, done + part * (high - done), high), done)
            going &= part >= 1  # an image that has come far enough moves no more
