"""miniImageNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stochx.datasets import Split
from stochx.datasets._cache import from_cache
from stochx.datasets._domain import folder_of, listed, table
from stochx.datasets._listing import walk
from stochx.datasets._tree import class_tree
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class MiniImageNet:
    """miniImageNet: 64, 16 and 20 classes of ImageNet (Vinyals et al., 2016; Ravi & Larochelle, 2017).

    Class folders in `train`, `val` and `test`; or `images` with `train.csv`, `val.csv` and `test.csv` (`filename,label`
    or `class_name,image_name`); or `mini-imagenet-cache-train.pkl` and so on, which are converted to .npz once, without
    executing code that a pickle may contain.
    """

    root: str  # folder with these
    split: str = "auto"  # how to split the classes: auto (official splits), all, mod4, or class lists

    def __call__(self, split: Split) -> Data:
        root = folder_of(self.root)
        if (root / f"mini-imagenet-cache-{split}.pkl").is_file() or (
            root / f"mini-imagenet-cache-{split}.npz"
        ).is_file():
            if self.split != "auto":
                raise InputError("the splits of miniImageNet's pickles are fixed", "leave out `split`")
            return from_cache(root / f"mini-imagenet-cache-{split}.pkl")
        parts = (split,) if self.split == "auto" else SPLITS
        pairs = [pair for part in parts for pair in _images(root, part)]
        return listed(root, pairs, self.split, split)


def _images(root: Path, split: Split) -> list[tuple[str, str]]:
    """Return path and class of every image of an official split."""
    file = root / f"{split}.csv"
    if file.is_file():
        rows = table(file, ())
        named = ("label", "filename") if rows and "filename" in rows[0] else ("class_name", "image_name")
        if rows and not {*named} <= rows[0].keys():
            raise InputError(f"`{printable(file)}` has neither `filename,label` nor `class_name,image_name`")
        pairs = [tuple(row[key] for key in named) for row in rows]
        return [(_place(root, name, image), name) for name, image in pairs]
    if not (root / split).is_dir():
        raise InputError(
            f"`{printable(root)}` has neither `{split}/`, `{split}.csv` nor `mini-imagenet-cache-{split}.pkl`",
            "use one of the usual layouts of miniImageNet",
        )
    tree = class_tree(walk(root / split), split, printable(root / split), "all", "classes")
    return [(f"{split}/{path}", tree.classes[label]) for path, label in zip(tree.paths, tree.labels, strict=True)]


def _place(root: Path, name: str, image: str) -> str:
    """Return the path of an image of a list."""
    options = (f"images/{image}", f"images/{name}/{image}", f"{name}/{image}", image)
    location = next((path for path in options if (root / path).is_file()), None)
    if location is None or ".." in Path(image).parts:
        raise InputError(
            f"`{printable(root)}` lacks `{printable(image)}`, which its list names", "add the folder `images`"
        )
    return location
