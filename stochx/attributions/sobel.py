"""Edges of the image, a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class SobelEdges:
    """A control, not an explanation: the edges of the image, which pass for one to the eye (Adebayo et al., 2018).

        map = |(g * K, g * K^T)| / 8, g the mean of the channels, K = (1, 2, 1)^T (-1, 0, 1), borders reflected

    It is independent of the model; measures of smoothness reward it wherever the image is smooth.
    """

    control: ClassVar[int] = 3  # a reference for metrics that explains nothing; its position among the controls

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        grey = x.mean(1, keepdim=True)
        smooth, slope = x.new_tensor([1.0, 2.0, 1.0]) / 4, x.new_tensor([-1.0, 0.0, 1.0]) / 2
        kernels = smooth[:, None] * slope, slope[:, None] * smooth
        padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")  # for one pixel, equal to the reflection (b a | a b)
        across, down = (F.conv2d(padded, kernel[None, None]) for kernel in kernels)
        return Explanation((across.square() + down.square()).sqrt())
