"""ResNet-2B of the verification literature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._cifar import cifar_classifier, start_weights


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(_Block(8, 16, 2), _Block(16, 16, 1))
        self.linear1 = nn.Linear(16 * 8 * 8, 100)
        self.linear2 = nn.Linear(100, classes)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(F.relu(self.conv1(x)))
        logits: Tensor = self.linear2(F.relu(self.linear1(torch.flatten(x, 1))))
        return logits


@dataclass(frozen=True)
class RobustResNet2B:
    """Narrow residual network without norms, used in verification (Wang et al., 2021)."""

    def __call__(self, classes: int) -> Classifier:
        return cifar_classifier(_Network(classes), classes, "robust-resnet2b")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        if shapes.get("conv1.weight") == (8, 3, 3, 3) and "linear2.weight" in shapes:
            yield cls()
