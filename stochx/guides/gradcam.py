"""Grad-CAM as a guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.seeds import Key
from stochx.errors import InputError
from stochx.guides._shares import check_shares
from stochx.guides._slopes import slopes


@dataclass(frozen=True)
class GradCAM:
    """Weights of positions from sum_c x_c mean df/dx_c, f = sum R0 score, for all channels (Selvaraju et al., 2017).

    Weights are 1 + cam / max |cam| over positions; features without positions stay as they are.
    """

    lambda_: float = -1.0  # weight of the guided loss; below 0: the head's default for this number of shots
    xi: float = -1.0  # weight of the plain loss; below 0: the head's default
    relu: bool = True  # keep only positive relevance: weights in [1, 2]

    def __post_init__(self) -> None:
        check_shares(self.lambda_, self.xi)

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        if -3 not in head.axes:
            raise InputError("`gradcam` needs feature maps, but the head compares vectors", "use `gradxinput`")
        gradients = zip(slopes(head, cache), head.axes, strict=True)
        return tuple(self._weights(x, slope) if axis == -3 else torch.ones_like(x) for (x, slope), axis in gradients)

    def _weights(self, x: Tensor, slope: Tensor) -> Tensor:
        """Return weights, equal for all C, from maps (..., C, H, W) and their gradients."""
        cam = (x * slope.mean((-2, -1), keepdim=True)).sum(-3, keepdim=True)
        cam = cam.relu() if self.relu else cam
        peak = cam.abs().amax((-2, -1), keepdim=True)
        return (1 + cam / torch.where(peak == 0, 1, peak)).expand_as(x)
