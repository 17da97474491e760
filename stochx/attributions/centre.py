"""A blob at the centre, a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class CentreBlob:
    """A control, not an explanation: the same Gaussian blob for every image, since photographers centre their subject.

        map_ij = exp(-r_ij^2 / (2 s^2)), r the distance to the centre, s = width * the short side

    It depends on neither the model nor the image, yet measures of smoothness and masks of centred objects reward it:
    a method that does not beat it has shown nothing.
    """

    control: ClassVar[int] = 2  # a reference for metrics that explains nothing; its position among the controls

    width: float = 0.2  # standard deviation as a share of the image's short side

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError("width must be positive")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        height, width = x.shape[2:]
        down, across = (torch.arange(side, dtype=x.dtype, device=x.device) - (side - 1) / 2 for side in (height, width))
        square = down.square()[:, None] + across.square()
        blob = torch.exp(-square / (2 * (self.width * min(height, width)) ** 2))
        return Explanation(blob.expand(len(x), 1, -1, -1).clone())
