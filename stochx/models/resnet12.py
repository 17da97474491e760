"""ResNet-12, the backbone of few-shot learning at 84 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._fewshot import Block, fewshot_classifier


@dataclass(frozen=True)
class ResNet12:
    """Four residual blocks of three convolutions (Hou et al., 2019); 512x6x6 maps at 84 pixels."""

    size: int = 84  # image side in pixels, at least 16

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"size must be at least 16, got {self.size}")

    def __call__(self, classes: int) -> Classifier:
        stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        widths = ((64, 64), (64, 128), (128, 256), (256, 512))
        blocks = [Block(a, b, convolutions=3, stride=2, at=1) for a, b in widths]
        return fewshot_classifier(nn.Sequential(*stem, *blocks), 512, classes, self.size, f"resnet12:size={self.size}")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        if shapes.get("maps.0.weight") == (64, 3, 3, 3) and "maps.6.convs.2.weight" in shapes:
            yield cls()
