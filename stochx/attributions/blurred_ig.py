"""Blurred integrated gradients, a control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.attributions.ig import IntegratedGradients
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class BlurredIG:
    """A control, not an explanation: integrated gradients under a Gaussian blur.

        G_s * |sum_c IG_c|, G_s a Gaussian of standard deviation s = width * the short side, borders mirrored

    Measures of smoothness reward the blur itself: a smooth method must beat this control in faithfulness, not in
    appearance. The integrated gradients start from a black image.
    """

    control: ClassVar[int] = 4  # a reference for metrics that explains nothing; its position among the controls
    examples: ClassVar[tuple[str, ...]] = ("steps=6",)  # settings that are tested

    steps: int = 50  # quadrature nodes, one gradient each
    width: float = 0.05  # standard deviation of the blur as a share of the image's short side

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        if not 0 < self.width <= 0.25:
            raise ValueError("width must lie in (0, 0.25]")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        explanation = IntegratedGradients(steps=self.steps)(model, x, target, keys)
        strength = explanation.map.sum(1, keepdim=True).abs()
        return Explanation(_blur(strength, self.width * min(x.shape[2:])), used=explanation.used)


def _blur(field: Tensor, sigma: float) -> Tensor:
    """Blur (N, 1, H, W) with a Gaussian truncated at four standard deviations."""
    radius = min(math.ceil(4 * sigma), min(field.shape[2:]) - 1)
    place = torch.arange(-radius, radius + 1, dtype=field.dtype, device=field.device)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(field, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
