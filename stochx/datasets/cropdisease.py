"""CropDisease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class CropDisease:
    """PlantVillage: 38 crop diseases (Mohanty et al., 2016), as `dataset/train/Apple___Apple_scab/...`."""

    root: str  # folder with dataset or train, or with the class folders
    split: str = "all"  # how to split the classes: all, mod4, or a folder or JSON file of class lists
    PLACES: ClassVar = ("dataset/train", "train")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split)
