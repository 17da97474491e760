"""Soft randomisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochx.engine.network.classifier import Classifier
from stochx.lessons.soft_labels import SoftLabels


@dataclass(frozen=True)
class SoftRandomisation:
    """Soft labels of the clean image for a student that sees x + sigma eps (Arani, Sarfraz & Zonooz, 2019).

    eps ~ N(0, 1); noisy images are not clipped to [0, 1].
    """

    sigma: float = 0.1  # standard deviation, in pixel units [0, 1]
    tau: float = 4.0  # temperature of both softmaxes
    weight: float = 0.9  # weight of the teacher's term in the loss

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ValueError("sigma must not be negative")
        self._labels()

    def _labels(self) -> SoftLabels:
        return SoftLabels(self.tau, self.weight)

    def show(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)

    def __call__(self, teacher: Classifier, student: nn.Module, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        return self._labels()(teacher, student, logits, clean, y)
