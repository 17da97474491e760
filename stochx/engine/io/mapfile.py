"""Maps in files: those that `stochx explain` writes, and arrays that others made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stochx.engine.io.images import open_file
from stochx.errors import InputError, printable

SUFFIXES = (".npy", ".npz")
HOW = "save one map a file with `numpy.savez(path, map=...)`, (C, H, W) or (H, W)"


@dataclass(frozen=True)
class MapFile:
    """One stored map: (C, H, W) float32, signed, and whose it is: the image, the method, the explained class."""

    path: Path
    map: Tensor
    image: str
    method: str
    target: int | None


def find_maps(root: Path) -> list[Path]:
    """The .npz and .npy files at any depth below `root`, sorted, or `root` itself."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"no such folder: `{printable(root)}`", "check the path of `--maps`")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in path.relative_to(root).parts)
    )
    if not found:
        raise InputError(f"no map in `{printable(root)}`", "looked for .npz and .npy files")
    return found


def read_map(path: Path, root: Path) -> MapFile:
    """The map in a file; raises `InputError` for what is damaged or no map.

    An .npz may hold `map`, and `image`, `method`, `target`, as ours do; or one array. Where it does not say, the
    file's stem is the image, and the folder below `root` the method. (H, W), (C, H, W) and (H, W, C) are understood.
    """
    shown = printable(path)
    with open_file(path) as file:
        try:
            content = np.load(file, allow_pickle=False)
            arrays = {"map": content} if isinstance(content, np.ndarray) else {k: content[k] for k in content.files}
        except MemoryError:
            raise InputError(f"`{shown}` is too large for the memory", "split it") from None
        except Exception as error:  # hostile bytes: zipfile, zlib and the header's parser raise about anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"`{shown}` cannot be read: {reason}", "save it with `numpy.savez(path, map=...)`"
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
            f"`{shown}` holds {values.dtype} {values.shape}, no map", "save real numbers, (C, H, W) or (H, W)"
        )
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim == 3 and values.shape[0] > 4 and values.shape[2] <= 4:
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] > 4:
        raise InputError(
            f"`{shown}` has the shape {values.shape}, no map's", "save one map a file, (C, H, W) or (H, W)"
        )
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _text(value: Any) -> str:
    return str(value) if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "U" else ""


def _index(value: Any) -> int | None:
    whole = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
    return int(value) if whole else None
