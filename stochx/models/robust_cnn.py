"""The two-convolution network of the certified-robustness literature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import nn

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._cifar import cifar_classifier, start_weights

SIDE = 32


@dataclass(frozen=True)
class RobustCNN:
    """Two 4x4 convolutions and two linear layers, as in certified training (Wong & Kolter, 2018).

    The strides cannot be inferred from the weights.
    """

    first: int = 2  # stride of the first convolution
    second: int = 2  # stride of the second convolution

    def __post_init__(self) -> None:
        if self.first < 1 or self.second < 1 or self._side() < 1:
            raise ValueError("strides must be positive and leave at least one of 32 pixels")

    def _side(self) -> int:
        side = SIDE
        for stride in (self.first, self.second):
            side = (side + 2 - 4) // stride + 1
        return side

    def __call__(self, classes: int) -> Classifier:
        network = nn.Sequential(
            nn.Conv2d(3, 16, 4, self.first, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, self.second, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * self._side() ** 2, 100),
            nn.ReLU(),
            nn.Linear(100, classes),
        )
        start_weights(network)
        return cifar_classifier(network, classes, f"robust-cnn:first={self.first},second={self.second}")

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        if shapes.get("0.weight") != (16, 3, 4, 4) or len(shapes.get("5.weight", ())) != 2:
            return
        for first in (1, 2, 3, 4):
            for second in (1, 2, 3, 4):
                net = cls(first, second)
                if 32 * net._side() ** 2 == shapes["5.weight"][1]:
                    yield net
