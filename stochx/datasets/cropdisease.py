"""CropDisease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class CropDisease:
    """Diseases of crops, PlantVillage (Mohanty et al., 2016): 38 classes, as `dataset/train/Apple___Apple_scab/...`."""

    root: str  # folder that holds dataset or train, or the class folders
    split: str = "all"  # classes of train, val and test: all, mod4, or a folder or JSON file of class lists
    PLACES: ClassVar = ("dataset/train", "train")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split)
