"""Plantae."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class Plantae:
    """Plants of iNaturalist (Van Horn et al., 2018); few-shot learning uses the 200 largest classes.

    Class folders: `train_val_images/Plantae/...`. Classes of equal size are ordered by name; the reference used the
    order of the file system.
    """

    root: str  # folder with these, or with the class folders
    split: str = "mod4"  # how to split the classes: mod4, all, or a folder or JSON file of class lists
    classes: int = 200  # use the N largest classes; 0 means all
    PLACES: ClassVar = ("train_val_images/Plantae", "train_val2018/Plantae", "Plantae")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split, classes=self.classes)
