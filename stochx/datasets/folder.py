"""Class folders on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stochx.datasets import Split
from stochx.datasets._tree import class_tree, walk
from stochx.engine import images
from stochx.engine.data import Data
from stochx.errors import printable


@dataclass(frozen=True)
class Folder:
    """Images in class folders, nested ones too; `train` and `test` (or `val`) folders are the splits.

    Images are read when asked for; keys are paths below `root`. Without split folders both splits are all images.
    """

    root: str  # folder that holds the class folders

    def __call__(self, split: Split) -> Data:
        root = Path(self.root).expanduser()
        tree = class_tree(walk(root), split, printable(root))
        return Data(tree.classes, tree.paths, lambda i: images.read(root / tree.paths[i]), tree.labels)
