"""Blur integrated gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.gradients import scores, visit
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class BlurIG:
    """Integrated gradients on the path of a blur that clears up (Xu, Venugopalan & Sundararajan, 2020).

        sum_k (z_k+1 - z_k) * gradient((z_k + z_k+1) / 2),  z_k = x under a Gaussian blur of sigma * (1 - k / steps)

    No baseline adds structure that the image lacks: only details appear. Complete: the map sums to f(x) minus f of the
    most blurred image, up to the quadrature error, which `gap` reports. Beyond its border the image is black, as in the
    authors' code. That code takes finite differences of the blur at the sharper end of each step, in which the finest
    detail is lost: a blur of less than a fifth of a pixel is none.
    """

    examples: ClassVar[tuple[str, ...]] = ("steps=6",)  # settings that are tested
    remedy: ClassVar[str] = "use more `steps`"  # what makes a map more complete

    steps: int = 100  # steps of the path, one gradient each
    sigma: float = 50.0  # standard deviation of the strongest blur, in pixels
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        if self.sigma <= 0:
            raise ValueError("sigma must be positive")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        total, widths = torch.zeros_like(x), torch.linspace(self.sigma, 0, self.steps + 1, dtype=x.dtype).to(x)

        def where(image: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            one, other = (blurred(x[image], widths[place]) for place in (k, k + 1))
            return (one + other) / 2, other - one

        def take(image: Tensor, _: Tensor, steps: Tensor, gradient: Tensor, logit: Tensor) -> None:
            total.index_add_(0, image, steps * gradient)

        visit(model, x, target, self.steps, where, take, self.backward)
        gap = None
        if self.backward == "plain":
            last = blurred(x, widths[:1].expand(len(x)))
            gap = total.flatten(1).sum(1) - (scores(model, x, target) - scores(model, last, target))
        return Explanation(total, gap=gap, used=torch.full((len(x),), self.steps))


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (B, C, H, W) with Gaussians of `sigma` (B,), cut off at 4 sigma; beyond the border is black."""
    rows, columns = (_weights(side, sigma)[:, None] for side in x.shape[2:])
    return rows @ x @ columns.transpose(2, 3)


def _weights(side: int, sigma: Tensor) -> Tensor:
    """Return the matrices (B, side, side) of a one-dimensional blur."""
    sigma = sigma.view(-1, 1)
    radius = (4 * sigma + 0.5).floor()
    away = torch.arange(max(side, int(radius.max()) + 1), dtype=sigma.dtype, device=sigma.device)
    half = torch.exp(-(away / sigma.clamp(min=1e-6)).square() / 2) * (away <= radius)
    half = half / (2 * half.sum(1, keepdim=True) - 1)
    place = torch.arange(side, device=sigma.device)
    return half[:, (place[:, None] - place).abs()]
