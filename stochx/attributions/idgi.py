"""Important direction gradient integration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.attributions import Explanation
from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import scores, visit
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class IDGI:
    """Integrated gradients whose steps go along the gradient, not along the path (Yang et al., 2023).

        sum_j (f(z_j+1) - f(z_j)) * g_j^2 / |g_j|^2,  g_j the gradient at z_j = b + j / steps (x - b)

    Each step of the straight path from the baseline b shares the change of the logit out to the values that the
    gradient says it is most sensitive to: what moves without effect gets nothing. Complete with any number of steps,
    but for steps that begin where the gradient is 0. Squares depend on the unit of the input, here pixels.
    """

    examples: ClassVar[tuple[str, ...]] = ("steps=6",)  # settings that are tested
    remedy: ClassVar[str] = "use another `baseline`: steps begin where the gradient is 0"  # makes a map more complete

    steps: int = 50  # steps of the path; one gradient each, and one more
    baseline: Literal["black", "white", "mean", "blur"] = "black"  # baseline image, without evidence

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        start, total = BASELINES[self.baseline](x), torch.zeros_like(x)
        before = x.new_zeros(1, *x.shape[1:]), x.new_zeros(1)  # shares and logit at the point before a batch

        def where(image: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            points = torch.lerp(start[image], x[image], (k.to(x) / self.steps).view(-1, 1, 1, 1))
            return points, points

        def take(image: Tensor, k: Tensor, _: Tensor, gradient: Tensor, logit: Tensor) -> None:
            nonlocal before
            direction = F.normalize(gradient.flatten(1), eps=torch.finfo(x.dtype).tiny).view_as(gradient)
            shares, logits = torch.cat([before[0], direction.square()]), torch.cat([before[1], logit])
            change = (logits.diff() * (k > 0)).view(-1, 1, 1, 1)  # none to the first point of a path
            total.index_add_(0, image, shares[:-1] * change)
            before = shares[-1:], logits[-1:]

        visit(model, x, target, self.steps + 1, where, take)
        gap = total.flatten(1).sum(1) - (scores(model, x, target) - scores(model, start, target))
        return Explanation(total, gap=gap, used=torch.full((len(x),), self.steps + 1))
