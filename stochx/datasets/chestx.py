"""ChestX-ray8."""

from __future__ import annotations

from dataclasses import dataclass

from stochx.datasets import Split
from stochx.datasets._domain import by_name, folder_of, listed, table, warn_of_absent
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable

FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax")


@dataclass(frozen=True)
class ChestX:
    """X-rays with exactly one of seven findings, ChestX-ray8 (Wang et al., 2017), as in BSCD-FSL (Guo et al., 2020).

    `Data_Entry_2017.csv`, and the images (`images/*.png`, or `images_001/images/*.png` and so on) below the root.
    """

    root: str  # folder with both
    split: str = "all"  # how to split the classes: all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        root = folder_of(self.root)
        file = next(iter(sorted(root.glob("Data_Entry_2017*.csv"))), root / "Data_Entry_2017.csv")
        places = by_name(root)
        found = {
            row["Image Index"]: row["Finding Labels"]
            for row in table(file, ("Image Index", "Finding Labels"))
            if row["Finding Labels"] in FINDINGS
        }
        warn_of_absent(file, [image for image in found if image not in places])
        pairs = [(places[image], finding) for image, finding in found.items() if image in places]
        if not pairs:
            raise InputError(f"none of the images of `{printable(file)}` exist", "put the `images` folders beside it")
        return listed(root, pairs, self.split, split)
