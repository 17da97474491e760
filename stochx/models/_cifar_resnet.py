"""ResNets for 32-pixel images (He et al., 2016, section 4.2), and what CIFAR networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar_classifier(network: nn.Module, classes: int, arch: str) -> Classifier:
    """`network` behind CIFAR-10's mean and standard deviation, for 32-pixel images."""
    names = [str(i) for i in range(classes)]
    return Classifier(network, names, Preparation(32, 32), MEAN, STD, arch=arch)


def start_weights(network: nn.Module) -> None:
    """He's normal start for convolutions; norms and biases keep torch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without weights: every second pixel, new channels zero (option A)."""

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


class CifarResNet(nn.Module):
    """3 stages of n blocks with 16, 32 and 64 channels: 6 n + 2 layers."""

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
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def build(depth: int, classes: int) -> Classifier:
    """An untrained CIFAR ResNet."""
    return cifar_classifier(CifarResNet(depth, classes), classes, f"resnet{depth}")


def seems(depth: int, shapes: Shapes) -> bool:
    """Whether weights of these shapes have this depth: its last block is there, and no further one."""
    last = (depth - 2) // 6 - 1
    return f"layer3.{last}.conv2.weight" in shapes and f"layer3.{last + 1}.conv2.weight" not in shapes
