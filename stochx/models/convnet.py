"""A small convolutional network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._cifar import cifar_classifier, start_weights


@dataclass(frozen=True)
class ConvNet:
    """Four small convolutions with batch norms, for tests, demos and laptops; accepts images of any size."""

    width: int = 16  # channels of the first layer, doubled twice

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("width must be at least 1")

    def __call__(self, classes: int) -> Classifier:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in ((1, 1), (2, 2), (4, 2), (4, 1)):
            conv = nn.Conv2d(inputs, self.width * outputs, 3, stride, 1, bias=False)
            inputs = self.width * outputs
            layers += [conv, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
        start_weights(network)
        return cifar_classifier(network, classes, f"convnet:width={self.width}")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        first = shapes.get("0.weight", ())
        if len(first) == 4 and first[1:] == (3, 3, 3) and "14.weight" in shapes:
            yield cls(first[0])
