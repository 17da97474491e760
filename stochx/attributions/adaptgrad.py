"""AdaptGrad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.gradients import around, gradient
from stochx.engine.montecarlo import monte_carlo
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class AdaptGrad:
    """SmoothGrad whose noise leaves the range of pixels with a small probability (Zhou et al., 2024).

        (gradient(x) + sum_i gradient(x + sigma * noise_i)) / (samples + 1),
        sigma = min(x, 1 - x) / (sqrt(2) * erfinv(confidence)), for each value of x

    A value moves by less than its distance to the nearer of 0 and 1 with this confidence, so it leaves [0, 1] more
    rarely than in 1 - confidence of the copies. Black and white values have no noise: the map of an image of such
    values alone is its gradient. The clean gradient is part of the mean, as in the authors' code. Copies come in pairs
    with opposite noise.
    """

    examples: ClassVar[tuple[str, ...]] = ("samples=6",)  # settings that are tested
    sampled: ClassVar[str] = "samples"  # key that lowers the Monte-Carlo error

    samples: int = 50  # noisy copies per image; the maximum if `error` is set
    confidence: float = 0.95  # smallest probability that a noisy value lies in the range of pixels
    error: float = 0.0  # stop at this relative Monte-Carlo error; 0 uses all samples
    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")
        if not 0 < self.confidence < 1:
            raise ValueError("confidence must lie in (0, 1)")
        if not 0 <= self.error < 1:
            raise ValueError("error must lie in [0, 1)")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(self.confidence, dtype=torch.float64)))
        sigma = torch.minimum(x, 1 - x).clamp(min=0) / quantile
        names = keys if keys is not None else range(len(x))

        def draw(active: Tensor, points: range) -> Tensor:
            given = model, x[active], target[active]
            chosen = [names[n] for n in active.tolist()]
            sums = around(*given, chosen, sigma[active], points, backward=self.backward, paired=True)
            if points.start == 0:
                sums += gradient(*given, self.backward) / 2  # half of it in each half of the draws
            return sums

        estimate = monte_carlo(draw, len(x), self.samples, self.error, _with_clean, group=2)
        return Explanation(estimate.map, estimate.error, used=estimate.used + 1)


def _with_clean(sums: Tensor, count: int) -> Tensor:
    """Return the mean over noisy copies and the clean gradient; of a half up to a factor, which an error is free of."""
    return sums[0] / (count + 1)
