"""A small convolutional network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._cifar import cifar_classifier, start_weights


@dataclass(frozen=True)
class ConvNet:
    """Four small convolutions with batch norms, for tests, demos and laptops; accepts images of any size.

    Strides make gradients with a lattice, since a pixel takes part in one, two or four outputs of a strided
    convolution; with `pool=mean` all pixels take part alike.
    """

    examples: ClassVar[tuple[str, ...]] = ("", "pool=mean")  # settings that are tested

    width: int = 16  # channels of the first layer, doubled twice
    pool: Literal["stride", "mean"] = "stride"  # halve the sides by strides, or by means of 2x2 pixels

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("width must be at least 1")

    def __call__(self, classes: int) -> Classifier:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, half in ((1, False), (2, True), (4, True), (4, False)):
            if half and self.pool == "mean":
                layers.append(nn.AvgPool2d(2))
            stride = 2 if half and self.pool == "stride" else 1
            conv = nn.Conv2d(inputs, self.width * outputs, 3, stride, 1, bias=False)
            inputs = self.width * outputs
            layers += [conv, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
        start_weights(network)
        arch = f"convnet:width={self.width}" + (",pool=mean" if self.pool == "mean" else "")
        return cifar_classifier(network, classes, arch)

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        first = shapes.get("0.weight", ())
        if len(first) == 4 and first[1:] == (3, 3, 3):
            if "14.weight" in shapes:
                yield cls(first[0])
            elif "16.weight" in shapes:
                yield cls(first[0], "mean")
