"""Places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders
from stochx.engine.io.data import Data


@dataclass(frozen=True)
class Places:
    """Places365: photos of scenes; few-shot learning uses 200 of each (Zhou et al., 2017; Tseng et al., 2020).

    Class folders: `places365_standard/train/abbey/...` or `data_256/a/abbey/...`.
    """

    root: str  # folder with one of these, or with the class folders
    split: str = "mod4"  # how to split the classes: mod4, all, or a folder or JSON file of class lists
    images: int = 200  # use the first N images of each class; 0 means all
    PLACES: ClassVar = ("places365_standard/train", "data_256", "data_large", "train")

    def __call__(self, split: Split) -> Data:
        return class_folders(self.root, self.PLACES, self.split, split, most=self.images)
