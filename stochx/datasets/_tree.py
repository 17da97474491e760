"""Class folders, on disk and in zips: image paths, and the classes and splits that they name."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from stochx.datasets import Split
from stochx.datasets._listing import Listing
from stochx.errors import InputError, printable, quoted

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

Nested = Literal["refused", "classes", "parts"]

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Tree:
    """The images of a split: their paths below the root, and the class of each."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]


def class_tree(found: Listing, split: Split, where: str, rule: str = "auto", nested: Nested = "refused") -> Tree:
    """Return the images of a split, with classes named by their folders below the common root.

    `train` beside `test` or `val` are splits, whose classes are numbered together; otherwise every split has all. So
    are their usual spellings, such as `Training` and `test_set`; where there is no `val`, `test` stands for it, and the
    other way round. With a `rule` other than `auto` such folders are not splits: their names are ignored and all
    images count.
    Folders inside class folders are refused, or are `classes` of their own, or `parts` of the class above them.
    Files beside the class folders, other files, and class folders without images are left out, with a warning; `where`
    names the source in messages.
    """
    found.warn_of_others(where)
    parts = {name: PurePosixPath(name).parts for name in found.images}
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
    _warn_of_empty_folders(found, where)
    classed = {name: _class_name(path[shared:-1], where, nested) for name, path in parts.items()}
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


def _class_name(folders: tuple[str, ...], where: str, nested: Nested) -> str:
    """Name the class of the images in `folders`, a path; raises `InputError` for nested ones unless asked for."""
    if len(folders) > 1 and nested == "refused":
        raise InputError(
            f"`{where}` has folders inside class folders, such as `{printable('/'.join(folders))}`",
            f"add `nested=classes` if it is a class of its own, or `nested=parts` if it belongs to the class "
            f"`{printable(folders[0])}`, as in `--data folder:root=DIR,nested=parts`",
        )
    return "/".join(folders if nested == "classes" else folders[:1])


def _warn_of_empty_folders(found: Listing, where: str) -> None:
    """Name the folders without images, also below them, beside folders that have some: classes that were left empty."""
    filled = {str(parent) for name in found.images for parent in PurePosixPath(name).parents}
    empty = [name for name in found.folders if name not in filled and str(PurePosixPath(name).parent) in filled]
    if empty:
        log.warning("`%s`: folders without images: %d, %s", where, len(empty), quoted(empty))


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
