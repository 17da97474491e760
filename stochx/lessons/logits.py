"""Logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.gradients import logits as logits_of
from stochx.engine.network.classifier import Classifier


@dataclass(frozen=True)
class Logits:
    """The teacher's logits (Ba & Caruana, 2014): loss = (1 - w) CE(s, y) + w mean (s - t)^2."""

    weight: float = 0.5  # weight w of the teacher's term in the loss

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError("weight must be in [0, 1]")

    def __call__(self, teacher: Classifier, student: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        taught = F.mse_loss(logits, logits_of(teacher, clean))
        return (1 - self.weight) * F.cross_entropy(logits, y) + self.weight * taught
