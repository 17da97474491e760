"""Class folders on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._splits import restricted
from stochx.datasets._tree import class_tree, walk
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import printable


@dataclass(frozen=True)
class Folder:
    """Images in class folders, nested ones too; `train`, `val` and `test` folders are the splits.

    Images are read when asked for; keys are paths below `root`. Without split folders every split is all images. For
    few-shot learning `split` gives classes to splits; it ignores what folders are called.
    """

    reads: ClassVar[tuple[str, ...]] = ("folders",)  # a bare path of a folder of folders

    root: str  # folder that holds the class folders
    split: str = "auto"  # classes of train, val and test: auto, all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        root = Path(self.root).expanduser()
        tree = class_tree(walk(root), split, printable(root), self.split)
        data = Data(tree.classes, tree.paths, lambda i: images.read(root / tree.paths[i]), tree.labels)
        return restricted(data, self.split, split)
