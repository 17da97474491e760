"""Random maps, a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.seeds import Key, generator


@dataclass(frozen=True)
class RandomMap:
    """A control, not an explanation: standard normal noise, independent of the model and the image.

        map_ij ~ N(0, 1)

    A metric must rank every explanation clearly above it. Measures of smoothness rank it last only because it is not
    smooth. The image's key seeds the draw.
    """

    control: ClassVar[int] = 1  # a reference for metrics that explains nothing; its position among the controls

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        names = keys if keys is not None else range(len(x))
        return Explanation(torch.stack([_normal(x, key) for key in names]))


def _normal(like: Tensor, key: Key) -> Tensor:
    source = generator(key, "random map", device=like.device)
    shape = (1, *like.shape[2:])
    return torch.randn(shape, generator=source, device=like.device, dtype=torch.float32).to(like.dtype)
