"""CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stochx.datasets import Split, _cifar
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: 32 x 32 photos of 10 classes, 50,000 for training and 10,000 for testing; downloaded if absent.

    Reads torchvision's folder, or strips of stacked images: `train_000.webp`, ..., `train_labels.npy`, `classes.txt`.
    Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    findable: ClassVar[bool] = True  # has a place in the data folder, where `find` looks for it

    root: str = ""  # folder of the data set or its parent; empty: STOCHX_DATA, then a cache folder

    def __call__(self, split: Split) -> Data:
        return _cifar.load("cifar10", self.root, split)

    def find(self) -> Path | None:
        """Return its place in the data folder; None if it is not there."""
        return _cifar.find("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz")
