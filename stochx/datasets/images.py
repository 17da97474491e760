"""Loose image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._listing import walk
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import printable


@dataclass(frozen=True)
class Images:
    """All images at any depth below a folder, without labels.

    Images are read on demand; keys are paths below `root`; all splits are the same.
    """

    reads: ClassVar[tuple[str, ...]] = ("files",)  # a bare path to a folder of files

    root: str  # folder with images

    def __call__(self, split: Split) -> Data:
        root = Path(self.root).expanduser()
        found = walk(root)
        found.warn_of_others(printable(root))
        names = found.images
        return Data((), names, lambda i: images.read(root / names[i]))
