"""ISIC 2018."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stochx.datasets import Split
from stochx.datasets._domain import by_name, folder_of, listed, table, warn_of_absent
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable

LESIONS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


@dataclass(frozen=True)
class ISIC:
    """ISIC 2018, task 3: photos of 7 types of skin lesions (Codella et al., 2019).

    `ISIC2018_Task3_Training_Input/*.jpg`, and `ISIC2018_Task3_Training_GroundTruth.csv` anywhere below the root.
    """

    root: str  # folder with both
    split: str = "all"  # how to split the classes: all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        root = folder_of(self.root)
        files = sorted(root.rglob("*GroundTruth.csv"))
        if not files:
            raise InputError(f"no ground truth in `{printable(root)}`", "add `ISIC2018_Task3_Training_GroundTruth.csv`")
        places = by_name(root)
        pairs, absent = [], []
        for row in table(files[0], ("image", *LESIONS)):
            lesions = [name for name in LESIONS if row[name] and _number(row[name], files[0]) > 0.5]
            image = f"{row['image']}.jpg"
            if image not in places:
                absent.append(image)
            elif len(lesions) == 1:
                pairs.append((places[image], lesions[0]))
        warn_of_absent(files[0], absent)
        if not pairs:
            raise InputError(
                f"none of the images of `{printable(files[0])}` exist", "add `ISIC2018_Task3_Training_Input`"
            )
        return listed(root, pairs, self.split, split)


def _number(text: str, file: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"`{printable(file)}` has `{printable(text)}` for a number", "use the official file") from None
