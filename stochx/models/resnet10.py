"""ResNet-10, the backbone of cross-domain few-shot learning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._fewshot import Block, fewshot_classifier


@dataclass(frozen=True)
class ResNet10:
    """ResNet with one block per stage (Chen et al., 2019; Tseng et al., 2020); 512x7x7 maps at 224 pixels."""

    size: int = 224  # image side in pixels, at least 32

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"size must be at least 32, got {self.size}")

    def __call__(self, classes: int) -> Classifier:
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        blocks = [Block(a, b, convolutions=2, stride=stride, at=0) for a, b, stride in widths]
        return fewshot_classifier(nn.Sequential(*stem, *blocks), 512, classes, self.size, f"resnet10:size={self.size}")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        if shapes.get("maps.0.weight") == (64, 3, 7, 7) and "maps.7.convs.1.weight" in shapes:
            yield cls()
