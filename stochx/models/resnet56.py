"""ResNet-56 for CIFAR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from stochx.engine.network.classifier import Classifier
from stochx.models import Shapes
from stochx.models._cifar_resnet import build, seems


@dataclass(frozen=True)
class ResNet56:
    """CIFAR ResNet of 56 layers with weightless shortcuts (He et al., 2016)."""

    def __call__(self, classes: int) -> Classifier:
        return build(56, classes)

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        if seems(56, shapes):
            yield cls()
