"""Plantae."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class Plantae:
    """Plants of iNaturalist (Van Horn et al., 2018), of which few-shot learning takes the 200 largest classes.

    Class folders: `train_val_images/Plantae/...`. Of equally large classes the first by name come first; the reference
    took them as the file system listed them.
    """

    root: str  # folder that holds these, or the class folders
    split: str = "mod4"  # classes of train, val and test: mod4, all, or a folder or JSON file of class lists
    classes: int = 200  # the largest so many; 0 all
    PLACES: ClassVar = ("train_val_images/Plantae", "train_val2018/Plantae", "Plantae")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split, classes=self.classes)
