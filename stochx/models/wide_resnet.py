"""Wide residual networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._cifar import cifar_classifier, start_weights
from stochx.models._preact import stage


class _Network(nn.Module):
    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.layer1 = stage(16, 16 * width, blocks, 1)
        self.layer2 = stage(16 * width, 32 * width, blocks, 2)
        self.layer3 = stage(32 * width, 64 * width, blocks, 2)
        self.bn = nn.BatchNorm2d(64 * width)
        self.linear = nn.Linear(64 * width, classes)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1), 1))
        return logits


@dataclass(frozen=True)
class WideResNet:
    """Wide residual network for 32-pixel images (Zagoruyko & Komodakis, 2016)."""

    examples: ClassVar[tuple[str, ...]] = ("depth=10,width=1",)  # settings that are tested

    depth: int = 28  # number of layers, 6 n + 4
    width: int = 10  # width factor relative to a ResNet

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError("depth must be 6 n + 4: 10, 16, 22, 28, 34, 40")
        if self.width < 1:
            raise ValueError("width must be at least 1")

    def __call__(self, classes: int) -> Classifier:
        network = _Network(self.depth, self.width, classes)
        return cifar_classifier(network, classes, f"wide-resnet:depth={self.depth},width={self.width}")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        final = shapes.get("bn.weight", (0,))[0]
        blocks = sum(name.startswith("layer3.") and name.endswith(".conv2.weight") for name in shapes)
        if blocks and final and final % 64 == 0 and "layer4.0.conv1.weight" not in shapes:
            yield cls(6 * blocks + 4, final // 64)
