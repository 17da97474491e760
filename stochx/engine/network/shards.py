"""Weights in several files, beside an index that says which file holds which tensor; and the weights in a folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from stochx.errors import InputError, quoted
from stochx.input_files import read_text

INDEX = ".index.json"
USUAL = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")


def is_index(path: Path) -> bool:
    """Return true for the index of `model.safetensors.index.json`, or of pickles."""
    return path.name.endswith(INDEX)


def weights_file(folder: Path, suffixes: Collection[str]) -> Path:
    """Return the file, or index, of a folder that holds the weights: one of the usual names, or the only one.

    Raises `InputError` where there is none, or several.
    """
    for name in USUAL:
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("*.distcp")):
        raise InputError(
            f"`{folder}` is a distributed checkpoint, which is not read",
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt` makes one file",
        )
    found = sorted(p for p in folder.iterdir() if is_index(p) or (p.suffix in suffixes and p.is_file()))
    if len(found) != 1:
        what = f"several weights files: {quoted([p.name for p in found], 5)}" if found else "no weights file"
        raise InputError(f"`{folder}` is a directory with {what}", "name a file in it")
    return found[0]


def names(index: Path) -> list[str]:
    """Return the names of the files that an index names; raises `InputError` as `table_of` does."""
    return list(table_of(index))


def table_of(index: Path) -> dict[str, list[str]]:
    """Return the tensors that each file beside an index should hold.

    Raises `InputError` for an index that is damaged, or that names files elsewhere.
    """
    try:
        places = json.loads(read_text(index, "copy or download it again"))["weight_map"].items()
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise InputError(f"the index `{index}` is damaged", "copy or download it again") from None
    table: dict[str, list[str]] = {}
    for name, file in places:
        if not isinstance(file, str) or file != Path(file).name or "\\" in file or is_index(Path(file)):
            raise InputError(f"the index `{index}` names `{file}`, which is not beside it", "download it again")
        table.setdefault(file, []).append(name)
    if not table:
        raise InputError(f"the index `{index}` names no tensors", "copy or download it again")
    return table


def check_present(index: Path, files: Iterable[str]) -> None:
    """Raise `InputError` where files that an index names are missing."""
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise InputError(f"`{index.parent}` lacks {quoted(missing, 3)}", "copy or download the whole folder again")


def check_table(index: Path, expected: Mapping[str, list[str]], found: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise `InputError` where a file does not hold the tensors that the index says."""
    for file, names in expected.items():
        wrong = sorted({*names} ^ found[file].keys())
        if wrong:
            lie = "lacks" if wrong[0] in names else "holds, against its index,"
            raise InputError(f"`{index.parent / file}` {lie} {quoted(wrong, 3)}", "download the whole folder again")
