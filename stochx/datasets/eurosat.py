"""EuroSAT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class EuroSAT:
    """EuroSAT: satellite images of 10 kinds of land (Helber et al., 2019), as `2750/AnnualCrop/...`."""

    root: str  # folder that holds 2750, or the class folders
    split: str = "all"  # classes of train, val and test: all, mod4, or a folder or JSON file of class lists
    PLACES: ClassVar = ("2750", "eurosat/2750", "EuroSAT/2750", "EuroSAT_RGB")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split)
