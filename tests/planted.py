"""Small data sets on disk for tests: images of one grey each, plain and zipped, and what must never be unpickled."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from stochx.catalog import DATASETS
from stochx.engine.io.data import Data


def load(spec: str, split: str = "train") -> Data:
    return DATASETS.make(spec)(split)  # type: ignore[arg-type]


def encoded(grey: int, form: str = "PNG") -> bytes:
    Image.new("RGB", (12, 10), (grey,) * 3).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


def plant(root: Path, *names: str) -> Path:
    """One image a name; the k-th is of grey k."""
    for grey, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(grey))
    return root


def packed(path: Path, *names: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for grey, name in enumerate(names):
            archive.writestr(name, encoded(grey))
    return path


def grey(data: Data, index: int) -> int:
    return np.asarray(data.read(index))[0, 0, 0]


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("exploded",)
