# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Architectures: networks that are not in torchvision, each with its usual normalisation.

Add one by writing `stochx/models/<name>.py` with one frozen dataclass that fits `Model`.
"""
from __future__ import annotations
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, Self
from stochx.engine.io.images import Preparation as Preparation
from stochx.engine.network.classifier import Classifier as Classifier
Shapes = Mapping[str, tuple[int, ...]]

class Model(Protocol):
    """number of classes -> an untrained `Classifier` with random weights."""

    def __call__(self, classes: int) -> Classifier:
        ...

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        """Yield settings of this architecture that may fit a state dict of these shapes.

        A coarse check is enough: the caller builds each one and compares all names and shapes.
        """
        ...
from stochx.models.conv4 import Conv4 as Conv4
from stochx.models.convnet import ConvNet as ConvNet
from stochx.models.preact_resnet18 import PreActResNet18 as PreActResNet18
from stochx.models.resnet10 import ResNet10 as ResNet10
from stochx.models.resnet12 import ResNet12 as ResNet12
from stochx.models.resnet_cifar import ResNetCIFAR as ResNetCIFAR
from stochx.models.robust_cnn import RobustCNN as RobustCNN
from stochx.models.robust_resnet2b import RobustResNet2B as RobustResNet2B
from stochx.models.wide_resnet import WideResNet as WideResNet
