"""Features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.device import current
from stochx.engine.network.classifier import Classifier
from stochx.errors import UsageError


@dataclass(frozen=True)
class Features:
    """The teacher's penultimate features of the clean image (after Romero et al., 2015).

    loss = (1 - w) CE(s, y) + w mean (f_s - f_t)^2

    The student's features take an extra forward pass. Raises `UsageError` if the shapes differ.
    """

    weight: float = 0.5  # weight w of the teacher's term in the loss

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError("weight must be in [0, 1]")

    def __call__(self, teacher: Classifier, student: Any, logits: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        with current().autocast():
            with torch.no_grad():
                targets = teacher.features(clean)
            features = student.features(clean)
        if features.shape != targets.shape:
            raise UsageError(
                f"the student's features are {tuple(features.shape[1:])}, the teacher's {tuple(targets.shape[1:])}",
                "use `--kd logits`, or the teacher's architecture",
            )
        distance = F.mse_loss(features.to(clean.dtype), targets.to(clean.dtype))
        return (1 - self.weight) * F.cross_entropy(logits, y) + self.weight * distance
