"""Gradient times input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.gradients import gradient
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class GradientTimesInput:
    """x * gradient, the first-order Taylor term from black (Shrikumar et al., 2017).

    The input is the one that the model takes: for a `Classifier` pixels in [0, 1], so black contributes nothing.
    """

    backward: Literal["plain", "balanced"] = "plain"  # gradients as they are, or balanced (LibraGrad)

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        return Explanation(x * gradient(model, x, target, self.backward))
