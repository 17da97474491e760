"""Class folders on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stochx.datasets import Split
from stochx.datasets._listing import walk
from stochx.datasets._splits import restricted
from stochx.datasets._tree import class_tree
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import printable


@dataclass(frozen=True)
class Folder:
    """Images in class folders; folders `train`, `val` and `test` are splits.

    Images are read on demand; keys are paths below `root`. Without split folders every split has all images; `train`
    and `distill` hold out a part. For few-shot learning `split` assigns classes to splits, and the names of split
    folders are ignored.
    """

    reads: ClassVar[tuple[str, ...]] = ("folders",)  # a bare path to a folder of folders

    root: str  # folder with the class folders
    split: str = "auto"  # how to split the classes: auto, all, mod4, or a folder or JSON file of class lists
    nested: Literal["refused", "classes", "parts"] = "refused"  # folders inside class folders: classes, or parts of one

    def __call__(self, split: Split) -> Data:
        root = Path(self.root).expanduser()
        tree = class_tree(walk(root), split, printable(root), self.split, self.nested)
        data = Data(tree.classes, tree.paths, lambda i: images.read(root / tree.paths[i]), tree.labels)
        return restricted(data, self.split, split)
