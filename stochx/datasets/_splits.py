"""Splits of a few-shot domain into classes for training, validation and testing."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stochx.datasets import Split
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable
from stochx.input_files import read_text

FILES: Mapping[Split, tuple[str, ...]] = {"train": ("train", "base"), "val": ("val",), "test": ("test", "novel")}
COLUMNS = ("label", "class_name", "class")
PLACES: Mapping[Split, Callable[[int], bool]] = {
    "train": lambda i: i % 2 == 0,
    "val": lambda i: i % 4 == 1,
    "test": lambda i: i % 4 == 3,
}


def restricted(data: Data, rule: str, split: Split) -> Data:
    """Return the images whose class belongs to `split`.

    `all`, and `auto` after a split by folders: every class; `mod4`: every second of the sorted classes is for `train`,
    the others alternate between `val` and `test` (Chen et al., 2019). Otherwise `rule` is a folder with a list of
    classes per split, or a JSON file of all.
    Raises `InputError` for lists that share a class, name an unknown one, or leave a split empty.
    """
    if rule in ("auto", "all"):
        return data
    if data.labels is None:
        raise InputError("the data set has no labels to split by", "use class folders, or an npz with `labels`")
    if rule == "mod4":
        used = [i for i in range(len(data.classes)) if PLACES[split](i)]
    else:
        used = _listed(data.classes, Path(rule).expanduser(), split)
    if not used:
        raise InputError(f"none of {len(data.classes)} classes belongs to `{split}`", "use `split=all`")
    return with_classes(data, used)


def with_classes(data: Data, order: Sequence[int]) -> Data:
    """Return the images of the classes `order`, numbered in that order."""
    assert data.labels is not None
    number = {old: new for new, old in enumerate(order)}
    chosen = data.subset([i for i, label in enumerate(data.labels) if label in number])
    labels = [number[label] for label in chosen.labels or ()]
    return replace(chosen, classes=tuple(data.classes[i] for i in order), labels=labels)


def _listed(classes: Sequence[str], where: Path, split: Split) -> list[int]:
    """Return the indices of the classes that the lists assign to `split`."""
    lists = _lists(where)
    owners: dict[str, Split] = {}
    for part, names in lists.items():
        for name in names:
            if owners.setdefault(name, part) != part:
                raise InputError(
                    f"`{printable(where)}`: the class `{printable(name)}` is in {owners[name]} and {part}",
                    "assign every class to one split",
                )
    place = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in owners if name not in place]
    if unknown:
        close = difflib.get_close_matches(unknown[0], classes, n=1)
        raise InputError(
            f"`{printable(where)}` names `{printable(unknown[0])}`, which is not a class of the data set",
            f"did you mean `{printable(close[0])}`?" if close else f"classes are named like `{printable(classes[0])}`",
        )
    return sorted(place[name] for name in {*lists.get(split, [])})


def _lists(where: Path) -> dict[Split, list[str]]:
    """Return the class names of each split, from a folder of lists or one JSON file."""
    if where.is_dir():
        files = {s: [where / f"{n}{end}" for n in FILES[s] for end in (".csv", ".txt", ".json")] for s in FILES}
        lists = {s: next((f for f in options if f.is_file()), None) for s, options in files.items()}
        if not any(lists.values()):
            raise InputError(f"`{printable(where)}` contains no class lists", "add train.txt, val.txt and test.txt")
        return {s: _names(file) for s, file in lists.items() if file is not None}
    content = _parsed(where)
    if not isinstance(content, dict) or content.keys().isdisjoint({n for names in FILES.values() for n in names}):
        raise InputError(f"`{printable(where)}` names no splits", 'write {"train": [...], "val": [...], "test": [...]}')
    return {s: [name for n in names for name in _texts(content.get(n, []), where)] for s, names in FILES.items()}


def _names(file: Path) -> list[str]:
    """Read a list of classes: a JSON list, one per line, or a column of a table."""
    if file.suffix == ".json":
        content = _parsed(file)
        return _texts(content.get("label_names") if isinstance(content, dict) else content, file)
    lines = [line.strip() for line in read_text(file, "check the file").splitlines() if line.strip()]
    if file.suffix == ".txt":
        return lines
    table = csv.DictReader(lines, restval="")
    try:
        fields = table.fieldnames or []
        column = next((name for name in COLUMNS if name in fields), fields[-1] if fields else "")
        return [row[column] for row in table]
    except csv.Error as error:
        raise InputError(f"`{printable(file)}` cannot be read: {error}", "check the file") from None


def _texts(value: object, file: Path) -> list[str]:
    if not isinstance(value, list):
        raise InputError(f"`{printable(file)}` is not a list of classes", 'write ["class", ...]')
    return [str(name) for name in value]


def _parsed(file: Path) -> object:
    try:
        return json.loads(read_text(file, "use auto, all, mod4, or a file of class lists"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{printable(file)}` is not valid JSON: {error}", "write lists of class names") from None
