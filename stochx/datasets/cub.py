"""CUB-200-2011."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class CUB:
    """Caltech-UCSD Birds: 200 species of birds (Wah et al., 2011), as `CUB_200_2011/images/001.Name/...`."""

    root: str  # folder CUB_200_2011, its parent, or its images
    split: str = "mod4"  # how to split the classes: mod4, all, or a folder or JSON file of class lists
    PLACES: ClassVar = ("CUB_200_2011/images", "images")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split)
