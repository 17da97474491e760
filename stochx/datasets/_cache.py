"""miniImageNet's pickles, read without executing code that they may contain."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from stochx.datasets.npz import Npz
from stochx.engine.io.data import Data, from_arrays
from stochx.engine.io.files import atomic
from stochx.errors import InputError, WriteError, printable

ARRAYS = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

log = logging.getLogger("stochx")


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it imports `{module}.{name}`")
        return super().find_class(module, name)


def from_cache(file: Path) -> Data:
    """Read `{image_data: (N, H, W, 3) uint8, class_dict: {class: indices}}`, through an .npz written beside it."""
    stored = file.with_suffix(".npz")
    if stored.is_file():
        return Npz(str(stored))("train")
    pixels, labels, classes = _read(file)
    try:
        with atomic(stored) as temporary, temporary.open("wb") as out:
            np.savez(out, images=pixels, labels=np.array(labels), classes=np.array(classes))
    except WriteError as error:
        log.warning("`%s` cannot be cached and is read again each time: %s", printable(file), error)
    return from_arrays(pixels, labels, classes, file.stem)


def _read(file: Path) -> tuple[np.ndarray, list[int], list[str]]:
    try:
        with file.open("rb") as content:
            content_dict = _Arrays(content, encoding="latin1").load()
        pixels = np.asarray(content_dict["image_data"])
        names = sorted(content_dict["class_dict"])
        labels = np.full(len(pixels), -1)
        for k, name in enumerate(names):
            labels[np.asarray(content_dict["class_dict"][name])] = k
    except pickle.UnpicklingError as error:
        raise InputError(
            f"`{printable(file)}` was not loaded: {error}", "a pickle can run code; use one of plain arrays"
        ) from None
    except Exception as error:  # malicious bytes: a pickle's operations raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"`{printable(file)}` cannot be read: {reason}", "download it again") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise InputError(
            f"`{printable(file)}` contains images {pixels.dtype} {pixels.shape}", "they must be (N, H, W, 3) uint8"
        )
    if (labels < 0).any():
        raise InputError(
            f"`{printable(file)}` has {int((labels < 0).sum())} images without a class", "download it again"
        )
    return pixels, labels.tolist(), [str(name) for name in names]
