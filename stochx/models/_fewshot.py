"""Parts of few-shot backbones: residual blocks, a mean over positions, a linear layer."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from stochx.models._cifar import start_weights


class Block(nn.Module):
    """3x3 convolutions, each with a norm, and a 1x1 shortcut where the width changes.

    The convolution of index `at` has the stride.
    """

    def __init__(self, inputs: int, outputs: int, convolutions: int, stride: int, at: int) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * convolutions]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride if i == at else 1, 1, bias=False)
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(convolutions))
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(conv(out if i == 0 else F.relu(out)))
        result: Tensor = self.relu(out + self.shortcut(x))
        return result


class Pooled(nn.Module):
    """Feature maps -> mean over positions -> logits."""

    def __init__(self, maps: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.maps, self.linear = maps, nn.Linear(width, classes)
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(self.maps(x), 1), 1))
        return logits


def fewshot_classifier(maps: nn.Module, width: int, classes: int, size: int, arch: str) -> Classifier:
    """Wrap `maps` with ImageNet's normalisation and a linear layer, for square images of `size` pixels."""
    names = [str(i) for i in range(classes)]
    network = Pooled(maps, width, classes)
    return Classifier(network, names, Preparation(size, size), IMAGENET_MEAN, IMAGENET_STD, arch=arch)
