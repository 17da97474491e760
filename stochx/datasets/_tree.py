"""Class folders, on disk and in zips: image paths, and the classes and splits that they name."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stochx.datasets import Split
from stochx.engine.io.images import SUFFIXES
from stochx.errors import InputError, printable

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Tree:
    """The images of a split: their paths below the root, and the class of each."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]


def image_names(names: Iterable[str]) -> list[str]:
    """Return the names with an image suffix that are not hidden, sorted."""
    return sorted(name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES and not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def walk(root: Path) -> list[str]:
    """Return the images at any depth below a folder, as sorted relative paths; follows links, but not in cycles."""
    if not root.exists():
        raise InputError(f"no such folder: `{printable(root)}`", "check the path")
    if not root.is_dir():
        raise InputError(f"`{printable(root)}` is not a folder", "name the folder that contains the images")

    def refuse(error: OSError) -> None:
        raise InputError(f"`{printable(error.filename)}` cannot be read: {error.strerror}", "check its permissions")

    paths, seen = [], set()
    for folder, below, files in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not _is_hidden(name))
        paths += [Path(folder, name).relative_to(root).as_posix() for name in files]
    names = image_names(paths)
    if not names:
        raise InputError(f"no images in `{printable(root)}`", "expected files ending in " + ", ".join(sorted(SUFFIXES)))
    return names


def class_tree(names: list[str], split: Split, where: str, rule: str = "auto") -> Tree:
    """Return the images of a split, with classes named by their folders, also nested, below the common root.

    `train` beside `test` or `val` are splits, whose classes are numbered together; otherwise every split has all. So
    are their usual spellings, such as `Training` and `test_set`; where there is no `val`, `test` stands for it, and the
    other way round. With a `rule` other than `auto` such folders are not splits: their names are ignored and all
    images count.
    Files beside the class folders are left out, with a warning; `where` names the source in messages.
    """
    parts = {name: PurePosixPath(name).parts for name in names}
    parents = [path[:-1] for path in parts.values()]
    shared = _common(min(parents), max(parents))  # everything in between shares the prefix of the two extremes
    tops = {parent[shared] for parent in parents if len(parent) > shared}
    folders = _split_folders(tops, where)
    parted = bool(folders)
    if parted:
        ignored = sorted(tops - {*folders.values()})
        if ignored:
            log.warning("`%s`: ignoring `%s` beside the split folders", where, printable(ignored[0]))
        parts = {name: path for name, path in parts.items() if len(path) > shared and path[shared] in folders.values()}
        shared += 1
        parted = rule == "auto"
    elif not tops:  # one class, or none
        shared = max(0, shared - 1)
    classed = {name: "/".join(path[shared:-1]) for name, path in parts.items()}
    loose = [name for name, title in classed.items() if not title]
    if len(loose) == len(classed):
        raise InputError(f"`{where}` has no class folders", "put the images of each class into a folder with its name")
    if loose:
        log.warning(
            "`%s`: ignoring images outside of class folders: %d, such as `%s`", where, len(loose), printable(loose[0])
        )
    classes = tuple(sorted({title for title in classed.values() if title}))
    index = {title: i for i, title in enumerate(classes)}
    folder = folders.get(split) or folders.get("val" if split == "test" else "test", "")
    selected = [name for name, title in classed.items() if title and (not parted or parts[name][shared - 1] == folder)]
    if not selected:
        raise InputError(f"`{where}` has no class folders in `{folder}`", "put the images of each class into one")
    return Tree(classes, tuple(selected), tuple(index[classed[name]] for name in selected))


def _split_folders(tops: set[str], where: str) -> dict[Split, str]:
    """Return the folders of training and other splits, by the usual spellings of their names; none without both.

    Raises `InputError` for two folders of one split.
    """
    folders = dict[Split, list[str]]()
    for top in sorted(tops):
        letters = re.sub(r"[\W_]+", "", top.casefold())
        split = SPLIT_NAMES.get(re.sub("(set|data|images)$", "", letters))
        if split is not None:
            folders.setdefault(split, []).append(top)
    if "train" not in folders or len(folders) == 1:
        return {}
    for names in folders.values():
        if len(names) > 1:
            raise InputError(f"`{where}` has `{names[0]}` and `{names[1]}`", "leave one folder for each split")
    return {split: names[0] for split, names in folders.items()}


def _common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
