"""The plain gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.gradients import gradient
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class Gradient:
    """The gradient of the target's logit: the effect of a small change of each value (Simonyan et al., 2014)."""

    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        return Explanation(gradient(model, x, target, self.backward))
