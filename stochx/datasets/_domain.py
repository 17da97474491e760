"""Few-shot domains on disk: locations of the images, and classes of a split."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from stochx.datasets import Split
from stochx.datasets._listing import walk
from stochx.datasets._splits import restricted
from stochx.datasets._tree import class_tree
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable
from stochx.input_files import open_file

log = logging.getLogger("stochx")


def folder_of(root: str) -> Path:
    """Return the folder named by the user."""
    where = Path(root).expanduser()
    if not where.is_dir():
        raise InputError(f"no such folder: `{printable(where)}`", "check `root`")
    return where


def first_of(root: Path, below: Sequence[str]) -> Path:
    """Return the first of the paths below `root` that is a folder, else `root` itself."""
    return next((root / part for part in below if (root / part).is_dir()), root)


def class_folders(root: str, below: Sequence[str], rule: str, split: Split, most: int = 0, classes: int = 0) -> Data:
    """Read class folders in the first existing path `below` root, or in `root`.

    Use the first `most` images of each class, and the `classes` largest classes, with ties in the order of names; 0
    means all.
    """
    where = first_of(folder_of(root), below)
    tree = class_tree(walk(where), split, printable(where), "all", "classes")
    by_class: dict[str, list[str]] = defaultdict(list)
    for path, label in zip(tree.paths, tree.labels, strict=True):
        by_class[tree.classes[label]].append(path)
    largest = sorted(by_class, key=lambda name: (-len(by_class[name]), name))[: classes or None]
    return listed(where, [(path, name) for name in largest for path in by_class[name][: most or None]], rule, split)


def listed(root: Path, pairs: Sequence[tuple[str, str]], rule: str, split: Split) -> Data:
    """Return images by their paths below `root`, each with the name of its class."""
    names = sorted({name for _, name in pairs})
    number, pairs = {name: i for i, name in enumerate(names)}, sorted(pairs)
    paths = [path for path, _ in pairs]
    labels = [number[name] for _, name in pairs]
    return restricted(Data(tuple(names), paths, lambda i: images.read(root / paths[i]), labels), rule, split)


def table(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file with at least the columns `needed`."""
    try:
        with open_file(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")  # of rows that are cut
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"`{printable(file)}` has no column `{missing[0]}`", "use the official file")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"`{printable(file)}` cannot be read: {error}", "use the official file") from None


def by_name(root: Path) -> Mapping[str, str]:
    """Map file names to paths for all images below `root`; raises `InputError` for a name that occurs twice."""
    paths = walk(root).images
    often = Counter(Path(path).name for path in paths)
    twice = next((name for name, count in often.items() if count > 1), None)
    if twice is not None:
        raise InputError(f"`{printable(root)}` has two images `{printable(twice)}`", "remove one of them")
    return {Path(path).name: path for path in paths}


def warn_of_absent(file: Path, absent: Sequence[str]) -> None:
    """Say how many images a table names that do not exist."""
    if absent:
        log.warning("`%s` names images that do not exist: %d, such as `%s`", printable(file), len(absent), absent[0])
