"""Residual networks for CIFAR."""

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


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights: every second pixel, zeros in new channels (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return F.relu(out + x)


class _Network(nn.Module):
    """Three stages of n blocks with 16, 32 and 64 channels: 6 n + 2 layers."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)
        start_weights(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = _Block(inputs, outputs, stride)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


@dataclass(frozen=True)
class ResNetCIFAR:
    """ResNet for 32-pixel images, with parameter-free shortcuts (He et al., 2016, section 4.2).

    The paper's depths also have the names `resnet20` to `resnet110`.
    """

    aliases: ClassVar[dict[str, str]] = {
        "resnet20": "depth=20",
        "resnet32": "depth=32",
        "resnet44": "depth=44",
        "resnet56": "depth=56",
        "resnet110": "depth=110",
    }
    examples: ClassVar[tuple[str, ...]] = ("", "depth=8", "depth=110")  # settings that are tested

    depth: int = 20  # number of layers, 6 n + 2

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError("depth must be 6 n + 2: 8, 14, 20, 26, 32, 38, 44")

    def __call__(self, classes: int) -> Classifier:
        name = f"resnet{self.depth}"
        arch = name if name in self.aliases else f"resnet-cifar:depth={self.depth}"
        return cifar_classifier(_Network(self.depth, classes), classes, arch)

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        blocks = sum(name.startswith("layer3.") and name.endswith(".conv2.weight") for name in shapes)
        if blocks and "layer4.0.conv1.weight" not in shapes:
            yield cls(6 * blocks + 2)
