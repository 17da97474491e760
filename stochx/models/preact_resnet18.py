"""PreActResNet-18 for CIFAR."""

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
from stochx.models._preact import stage


class _Network(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.layer1 = stage(64, 64, 2, 1)
        self.layer2 = stage(64, 128, 2, 2)
        self.layer3 = stage(128, 256, 2, 2)
        self.layer4 = stage(256, 512, 2, 2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1), 1))
        return logits


@dataclass(frozen=True)
class PreActResNet18:
    """Pre-activation ResNet-18 for 32-pixel images (He et al., 2016b)."""

    def __call__(self, classes: int) -> Classifier:
        return cifar_classifier(_Network(classes), classes, "preact-resnet18")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        if shapes.get("layer4.1.conv2.weight") == (512, 512, 3, 3) and "bn.weight" in shapes:
            yield cls()
