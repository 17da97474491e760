"""Map files: those of `stochx explain`, and arrays from other tools."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stochx.engine.io.archives import read_npy, read_npz
from stochx.errors import InputError, first_line, printable
from stochx.input_files import open_file

SUFFIXES = (".npy", ".npz")
NAMES = ("map", "image", "method", "target")
MOST = 2**29  # bytes: 64 million numbers in double precision
HOW = "save one map per file with `numpy.savez(path, map=...)`, (C, H, W) or (H, W)"


@dataclass(frozen=True)
class MapFile:
    """A stored map (C, H, W), signed float32, with its image, method and target class."""

    path: Path
    map: Tensor
    image: str
    method: str
    target: int | None


def find_maps(root: Path) -> list[Path]:
    """Return the .npz and .npy files at any depth below `root`, sorted, or `root` itself."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"no such folder: `{printable(root)}`", "check the path of `--maps`")
    paths = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in path.relative_to(root).parts)
    )
    if not paths:
        raise InputError(f"no maps in `{printable(root)}`", "expected .npz or .npy files")
    return paths


def read_map(path: Path, root: Path) -> MapFile:
    """Read a map; raises `InputError` for files that are damaged or do not hold a map.

    An .npz holds `map`, and optionally `image`, `method` and `target`, as ours do; or a single array. By default the
    image is the file's stem, and the method the folder below `root`. Accepts (H, W), (C, H, W) and (H, W, C).
    """
    shown = printable(path)
    with open_file(path) as file:
        try:
            arrays = read_npz(file, NAMES, MOST) if zipfile.is_zipfile(file) else {"map": read_npy(file, MOST)}
        except MemoryError:
            raise InputError(f"`{shown}` holds more than a map of 64 million pixels", HOW) from None
        except Exception as error:  # malicious bytes: zipfile, zlib and the header's parser raise almost anything
            raise InputError(
                f"`{shown}` cannot be read: {first_line(error)}", "save it with `numpy.savez(path, map=...)`"
            ) from None
    values = arrays.get("map", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if values is None:
        raise InputError(f"`{shown}` has no array `map`", HOW)
    folder = path.relative_to(root).parent.as_posix() if path.is_relative_to(root) else "."
    return MapFile(
        path=path,
        map=_channels_first(values, shown),
        image=_text(arrays.get("image")) or path.stem,
        method=_text(arrays.get("method")) or ("maps" if folder == "." else folder),
        target=_index(arrays.get("target")),
    )


def _channels_first(values: np.ndarray, shown: str) -> Tensor:
    if values.dtype.kind not in "fiu" or values.size == 0:
        raise InputError(
            f"`{shown}` is not a map: {values.dtype} {values.shape}", "save real numbers, (C, H, W) or (H, W)"
        )
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim == 3 and values.shape[0] > 4 and values.shape[2] <= 4:
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] > 4:
        raise InputError(
            f"`{shown}` is not a map: its shape is {values.shape}", "save one map per file, (C, H, W) or (H, W)"
        )
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _text(value: Any) -> str:
    return str(value) if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "U" else ""


def _index(value: Any) -> int | None:
    whole = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
    return int(value) if whole else None
