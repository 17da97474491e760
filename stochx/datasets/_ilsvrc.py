"""Classes of ILSVRC2012's validation images, in each format in which they are distributed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from stochx.engine.io.matlab import read_mat
from stochx.engine.io.wnids import WNIDS
from stochx.errors import InputError, first_line, printable
from stochx.input_files import open_file

MAX_BYTES = 2**20  # largest annotation file
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"


def truth(stems: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the WordNet id of each `ILSVRC2012_val_00000001` and so on, from the first source in the folders."""
    for folder in folders:
        for below, read in SOURCES.items():
            path = folder / below
            if path.is_file() or (read is _annotations and next(path.glob("ILSVRC2012_val_*.xml"), None)):
                wnids = read(path, stems)
                missing = [stem for stem in stems if stem not in wnids]
                if missing:
                    raise InputError(
                        f"`{printable(path)}` has no class for {len(missing)} images (`{missing[0]}`)",
                        "complete it, or remove it if another file has the classes",
                    )
                return [wnids[stem] for stem in stems]
    raise InputError(
        f"`{printable(folders[0])}` has ImageNet's images but not their classes",
        "put `LOC_val_solution.csv`, the XML files in `annotations`, or `ILSVRC2012_devkit_t12` into it",
    )


def numbers(wnids: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    """Return class indices; raises `InputError`, with the image, for an id that is not among the thousand."""
    index = {wnid: i for i, wnid in enumerate(WNIDS)}
    for wnid, name in zip(wnids, names, strict=True):
        if wnid not in index:
            raise InputError(
                f"`{where}`: `{printable(name)}` has the class `{printable(wnid)}`, which is not in ILSVRC2012",
                "use `folder:root=...` for images of other classes",
            )
    return [index[wnid] for wnid in wnids]


def _solution(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """Read Kaggle's table: `ILSVRC2012_val_00048981,n03995372 85 1 499 272`, an id and a box per object."""
    with open_file(path) as file:
        text = file.read().decode(errors="replace")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if len(row) == 2]
    except csv.Error as error:
        raise InputError(f"`{printable(path)}` is damaged: {error}", "download it again") from None
    return {stem: objects.partition(" ")[0] for stem, objects in rows}


def _annotations(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """Read a folder with an XML file per image; all objects of an image have its class."""
    files = {file.name for file in path.iterdir()}
    return {stem: _first_object(path / f"{stem}.xml") for stem in stems if f"{stem}.xml" in files}


def _first_object(path: Path) -> str:
    with open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES or b"<!DOCTYPE" in content or b"\0" in content:  # \0: UTF-16
        raise InputError(
            f"`{printable(path)}` is not a plain annotation: it is too large or declares entities",
            "download it again",
        )
    try:
        name = ElementTree.fromstring(content).findtext("object/name")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"`{printable(path)}` is damaged: {error}", "download it again") from None
    if not name:
        raise InputError(f"`{printable(path)}` names no object", "download it again")
    return name.strip()


def _devkit(path: Path, stems: Sequence[str]) -> dict[str, str]:
    """Read one number per line, in the order of images: the devkit's ILSVRC2012_ID, not an index of sorted ids."""
    with open_file(path) as file:
        lines = file.read().split()
    wnids = _meta(path.parent / "meta.mat")
    classes = {}
    for stem in stems:
        k = int(stem.rpartition("_")[2])
        if 0 < k <= len(lines):
            number = lines[k - 1].decode(errors="replace")
            if number not in wnids:
                raise InputError(
                    f"`{printable(path)}` has `{printable(number)}` in line {k}, which is not a class",
                    "download it again",
                )
            classes[stem] = wnids[number]
    return classes


def _meta(path: Path) -> dict[str, str]:
    """Map numbers to WordNet ids, from the devkit's table of classes."""
    with open_file(path) as file:
        try:
            return {str(int(row["ILSVRC2012_ID"].item())): str(row["WNID"]) for row in read_mat(file, "synsets")}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"`{printable(path)}` is damaged: {first_line(error)}",
                "use `LOC_val_solution.csv` or the XML files in `annotations` instead",
            ) from None


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
