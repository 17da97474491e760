"""Four convolutions, the small backbone of few-shot learning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._fewshot import fewshot_classifier


@dataclass(frozen=True)
class Conv4:
    """Four blocks of convolution, norm, ReLU and 2x2 max pooling (Vinyals et al., 2016); 64x5x5 maps at 84 pixels."""

    width: int = 64  # channels of every layer
    size: int = 84  # image side in pixels, at least 16

    def __post_init__(self) -> None:
        if self.width < 1 or self.size < 16:
            raise ValueError("width must be at least 1, and size at least 16")

    def __call__(self, classes: int) -> Classifier:
        layers: list[nn.Module] = []
        for inputs in (3, *[self.width] * 3):
            conv = nn.Conv2d(inputs, self.width, 3, 1, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(self.width), nn.ReLU(), nn.MaxPool2d(2)]
        arch = f"conv4:width={self.width},size={self.size}"
        return fewshot_classifier(nn.Sequential(*layers), self.width, classes, self.size, arch)

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        first = shapes.get("maps.0.weight", ())
        if len(first) == 4 and first[1:] == (3, 3, 3) and "maps.12.weight" in shapes:
            yield cls(first[0])
