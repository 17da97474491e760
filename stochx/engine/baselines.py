"""Baseline images: the input without evidence, to which an explanation compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Constant = Literal["black", "white", "mean", "blur"]


def _blur(x: Tensor) -> Tensor:
    """Blur with a Gaussian whose standard deviation is a tenth of the shorter side."""
    sigma = min(x.shape[-2:]) / 10
    size = 2 * min(int(3 * sigma), (min(x.shape[-2:]) - 1) // 2) + 1
    blurred: Tensor = gaussian_blur(x, [size, size], [sigma, sigma])
    return blurred


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "mean": lambda x: x.mean((2, 3), keepdim=True).expand_as(x).clone(),
    "blur": _blur,
}
