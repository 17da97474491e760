"""Soft labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.gradients import logits as logits_of
from stochx.engine.losses import divergence
from stochx.engine.network.classifier import Classifier


@dataclass(frozen=True)
class SoftLabels:
    """Knowledge distillation: the teacher's probabilities at a high temperature (Hinton et al., 2015).

    loss = (1 - w) CE(s, y) + w tau^2 KL(softmax(t / tau) || softmax(s / tau))
    """

    tau: float = 4.0  # temperature of both softmaxes
    weight: float = 0.9  # weight w of the teacher's term in the loss

    def __post_init__(self) -> None:
        if self.tau <= 0 or not 0 <= self.weight <= 1:
            raise ValueError("tau must be above 0, and weight in [0, 1]")

    def __call__(self, teacher: Classifier, student: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        taught = self.tau**2 * divergence(logits / self.tau, logits_of(teacher, clean) / self.tau)
        return (1 - self.weight) * F.cross_entropy(logits, y) + self.weight * taught
