"""No guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class NoGuide:
    """No guide: plain training with the head's own loss."""

    xi: ClassVar[float] = 1.0
    lambda_: ClassVar[float] = 0.0

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]:
        return tuple(torch.ones_like(feature) for feature in head.seen(cache))
