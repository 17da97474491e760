"""SmoothTaylor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.attributions._noise import noise_in_pixels, over_noise
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class SmoothTaylor:
    """First-order Taylor terms averaged over roots drawn around x (Goh et al., 2020, eq. 9-10).

        mean_r (x - z_r) * gradient(z_r),  z_r = x + sigma * noise_r

    By Stein's lemma its expectation is -sigma^2 d^2f/dx_i^2 where f is smooth: the sign is curvature and no
    evidence, so maps are ranked by their absolute value. A root costs one gradient.
    """

    sigma: float = 0.5  # distance of the roots
    roots: int = 150  # noisy roots of an image; with `error` the maximum
    unit: Literal["normalised", "range"] = "normalised"  # sigma is absolute, or a fraction of the image's range
    error: float = 0.0  # stop at this relative Monte-Carlo error; 0 takes all roots

    def __post_init__(self) -> None:
        if self.roots < 1:
            raise ValueError("roots must be at least 1")
        if self.sigma <= 0:
            raise ValueError("sigma must be positive")
        if not 0 <= self.error < 1:
            raise ValueError("error must lie in [0, 1)")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        sigma = noise_in_pixels(model, x, self.sigma, self.unit)
        return over_noise(model, x, target, keys, sigma=sigma, count=self.roots, error=self.error, terms=[_taylor])


def _taylor(offset: Tensor, gradient: Tensor) -> Tensor:
    return -offset * gradient
