"""EuroSAT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class EuroSAT:
    """EuroSAT: satellite images of 10 types of land use (Helber et al., 2019), as `2750/AnnualCrop/...`."""

    root: str  # folder with 2750, or with the class folders
    split: str = "all"  # how to split the classes: all, mod4, or a folder or JSON file of class lists
    PLACES: ClassVar = ("2750", "eurosat/2750", "EuroSAT/2750", "EuroSAT_RGB")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split)
