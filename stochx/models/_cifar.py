"""Normalisation and initialisation of networks for 32-pixel images."""

from __future__ import annotations

from torch import nn

from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar_classifier(network: nn.Module, classes: int, arch: str) -> Classifier:
    """Wrap `network` with CIFAR-10's mean and standard deviation, for 32-pixel images."""
    names = [str(i) for i in range(classes)]
    return Classifier(network, names, Preparation(32, 32), MEAN, STD, arch=arch)


def start_weights(network: nn.Module) -> None:
    """Initialise convolutions with He's normal distribution; norms and biases keep torch's defaults."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
