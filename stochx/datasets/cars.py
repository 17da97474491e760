"""Stanford Cars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from stochx.datasets import Split
from stochx.datasets._domain import class_folders, folder_of, listed
from stochx.engine.io.data import Data
from stochx.engine.io.matlab import read_mat
from stochx.errors import InputError, first_line, printable
from stochx.input_files import open_file

HINT = "use the official devkit"
T = TypeVar("T")


@dataclass(frozen=True)
class Cars:
    """Stanford Cars: 196 car models (Krause et al., 2013); few-shot learning uses the training images.

    Class folders (`car_data/train/...`), or the official `cars_train/*.jpg` with `devkit/cars_train_annos.mat` and
    `devkit/cars_meta.mat`.
    """

    root: str  # folder with these
    split: str = "mod4"  # how to split the classes: mod4, all, or a folder or JSON file of class lists
    PLACES: ClassVar = ("car_data/car_data/train", "car_data/train", "train")

    def __call__(self, split: Split) -> Data:
        root = folder_of(self.root)
        root = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root  # torchvision's folder
        if not (root / "cars_train").is_dir():
            return class_folders(str(root), self.PLACES, self.split, split)
        names = _matlab(root / "devkit" / "cars_meta.mat", "class_names", str)
        rows = _matlab(root / "devkit" / "cars_train_annos.mat", "annotations", _row)
        if not all(0 < number <= len(names) and Path(image).name == image for image, number in rows):
            raise InputError(f"`{printable(root / 'devkit')}` names images or classes that cannot be", HINT)
        return listed(root, [(f"cars_train/{image}", names[number - 1]) for image, number in rows], self.split, split)


def _matlab(file: Path, name: str, read: Callable[[Any], T]) -> list[T]:
    """Read the elements of an array of a MATLAB file."""
    with open_file(file) as content:
        try:
            return [read(value) for value in read_mat(content, name)]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"`{printable(file)}` cannot be read: {first_line(error)}", HINT) from None


def _row(value: Any) -> tuple[str, int]:
    return str(value["fname"]), int(value["class"].item())
