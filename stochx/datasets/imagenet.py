"""ImageNet's validation images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from stochx.datasets import Split
from stochx.datasets._ilsvrc import numbers, truth
from stochx.datasets._listing import listing
from stochx.datasets._root import data_root
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable

PLACES = ("val", "images", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "")
FLAT = re.compile(r"ILSVRC2012_val_\d{8}\.jpe?g", re.IGNORECASE)
FOLDER = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ImageNet:
    """ImageNet's (ILSVRC2012) validation images: 50,000 photos of 1000 classes, in the order of their file names.

    Reads class folders (`val/n01440764/*.JPEG`), or the flat files as distributed, with classes from
    `LOC_val_solution.csv`, XML annotations, or the devkit (`ILSVRC2012_devkit_t12`). Labels are indices of the sorted
    WordNet ids, as in torchvision, whichever images are present; class names are torchvision's.
    Russakovsky et al., ImageNet large scale visual recognition challenge, IJCV 2015.
    """

    findable: ClassVar[bool] = True  # has a place in the data folder, where `find` looks for it

    root: str = ""  # folder with `val` or the images; empty: STOCHX_DATA, then a cache folder

    def __call__(self, split: Split) -> Data:
        if split == "train":
            raise InputError(
                "`imagenet` has validation images only, none for training", "use `folder:root=...` instead"
            )
        from torchvision.models import ResNet18_Weights  # slow to import

        root = data_root(self.root)
        place, names, wnids = _find(root)
        labels = numbers(wnids, names, printable(root))
        titles = ResNet18_Weights.DEFAULT.meta["categories"]
        keys = [PurePosixPath(name).name for name in names]  # the same in all layouts, so that random draws are too
        if len(set(keys)) < len(keys):
            keys = names
        return Data(tuple(titles), keys, lambda i: images.read(place / names[i]), labels)

    def find(self) -> Path | None:
        """Return the folder of its images in the data folder; None if they are not there."""
        try:
            return _find(data_root(""))[0]
        except InputError:
            return None


def _find(root: Path) -> tuple[Path, list[str], list[str]]:
    """Return the folder of the images, their paths in it in the order of file names, and their WordNet ids."""
    for base in (root, root / "imagenet"):
        for place in (base / below for below in PLACES):
            entries = _entries(place)
            flat = sorted(name for name in entries if FLAT.fullmatch(name))
            if flat:
                return place, flat, truth([Path(name).stem for name in flat], [base, base.parent, place])
            folders = [name for name in entries if FOLDER.fullmatch(name)]
            paths = listing(f"{folder}/{name}" for folder in folders for name in _entries(place / folder)).images
            if paths:
                names = sorted(paths, key=lambda name: (PurePosixPath(name).name, name))
                return place, names, [name.partition("/")[0] for name in names]
    raise InputError(
        f"no ImageNet validation images in `{printable(root)}`",
        "expected `ILSVRC2012_val_00000001.JPEG`, ... or folders like `n01440764`, also below `val` and `images`",
    )


def _entries(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"`{printable(folder)}` cannot be read: {error.strerror}", "check its permissions") from None
