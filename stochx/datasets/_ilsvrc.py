"""The classes of ILSVRC2012's validation images, in each of the forms that they are distributed in."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from stochx.datasets._wnids import WNIDS
from stochx.engine.io.images import open_file
from stochx.errors import InputError, printable

MAX_BYTES = 2**20  # of one annotation
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"


def truth(stems: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The WordNet id of each `ILSVRC2012_val_00000001` and so on, from what is first found in the folders."""
    for folder in folders:
        for below, read in SOURCES.items():
            path = folder / below
            if path.is_file() or (read is _annotations and next(path.glob("ILSVRC2012_val_*.xml"), None)):
                found = read(path, stems)
                missing = [stem for stem in stems if stem not in found]
                if missing:
                    raise InputError(
                        f"`{printable(path)}` has no class for {len(missing)} images (`{missing[0]}`)",
                        "bring all of it, or remove it if another file has the classes",
                    )
                return [found[stem] for stem in stems]
    raise InputError(
        f"`{printable(folders[0])}` has ImageNet's images and not their classes",
        "put `LOC_val_solution.csv`, the XML files in `annotations`, or `ILSVRC2012_devkit_t12` into it",
    )


def numbers(wnids: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """Class indices; raises `InputError` for an id that is none of the thousand, with the image that has it."""
    index = {wnid: i for i, wnid in enumerate(WNIDS)}
    for wnid, name in zip(wnids, names, strict=True):
        if wnid not in index:
            raise InputError(
                f"`{where}`: `{printable(name)}` is of `{printable(wnid)}`, no class of ILSVRC2012",
                "use `folder:root=...` for images of other classes",
            )
    return [index[wnid] for wnid in wnids]


def _solution(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """Kaggle's table: `ILSVRC2012_val_00048981,n03995372 85 1 499 272`, an id and a box for each object."""
    with open_file(path) as file:
        text = file.read().decode(errors="replace")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if len(row) == 2]
    except csv.Error as error:
        raise InputError(f"`{printable(path)}` is damaged: {error}", "bring it again") from None
    return {stem: objects.partition(" ")[0] for stem, objects in rows}


def _annotations(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """A folder with an XML file for each image; all objects of an image are of its class."""
    there = {file.name for file in path.iterdir()}
    return {stem: _first_object(path / f"{stem}.xml") for stem in stems if f"{stem}.xml" in there}


def _first_object(path: Path) -> str:
    with open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES or b"<!DOCTYPE" in content or b"\0" in content:  # \0 is in UTF-16, which would hide it
        raise InputError(
            f"`{printable(path)}` is no plain annotation: it is too large or declares its own entities",
            "bring it again",
        )
    try:
        name = ElementTree.fromstring(content).findtext("object/name")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"`{printable(path)}` is damaged: {error}", "bring it again") from None
    if not name:
        raise InputError(f"`{printable(path)}` names no object", "bring it again")
    return name.strip()


def _devkit(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """A number a line in the order of the images; not a place among sorted ids, but the devkit's own ILSVRC2012_ID."""
    with open_file(path) as file:
        lines = file.read().split()
    wnids = _meta(path.parent / "meta.mat")
    found = {}
    for stem in stems:
        k = int(stem.rpartition("_")[2])
        if 0 < k <= len(lines):
            number = lines[k - 1].decode(errors="replace")
            if number not in wnids:
                raise InputError(
                    f"`{printable(path)}` has `{printable(number)}` in line {k}, no class", "bring it again"
                )
            found[stem] = wnids[number]
    return found


def _meta(path: Path) -> dict[str, str]:
    """Number -> WordNet id, from the devkit's table of classes."""
    hint = "bring `LOC_val_solution.csv` or the XML files in `annotations` instead"
    try:
        matlab = importlib.import_module("scipy.io")
    except ImportError:
        raise InputError(f"`{printable(path)}` needs the package scipy", f"pip install scipy, or {hint}") from None
    with open_file(path) as file:
        try:
            table = np.atleast_1d(matlab.loadmat(file, squeeze_me=True)["synsets"])
            return {str(int(k)): str(w) for k, w in zip(table["ILSVRC2012_ID"], table["WNID"], strict=True)}
        except Exception as error:  # hostile bytes make the parser raise about anything
            raise InputError(f"`{printable(path)}` is damaged: {error}", hint) from None


SOURCES: dict[str, Callable[[Path, Sequence[str]], dict[str, str]]] = {
    "LOC_val_solution.csv": _solution,
    "annotations": _annotations,
    "Annotations": _annotations,
    "Annotations/CLS-LOC/val": _annotations,
    "ILSVRC/Annotations/CLS-LOC/val": _annotations,
    "val_annotations": _annotations,
    "val": _annotations,
    "": _annotations,
    f"ILSVRC2012_devkit_t12/data/{DEVKIT}": _devkit,
    f"data/{DEVKIT}": _devkit,
    DEVKIT: _devkit,
}
