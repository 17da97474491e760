"""Arrays in a NumPy file."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from stochx.datasets import Split
from stochx.datasets._splits import restricted
from stochx.engine.io.archives import read_npz
from stochx.engine.io.data import Data, channel_axis, from_arrays
from stochx.engine.io.images import MIN_SIDE
from stochx.engine.memory import available_memory
from stochx.errors import InputError, printable
from stochx.input_files import open_file

NAMES = {
    "images": ("images", "image", "x"),
    "labels": ("labels", "label", "y"),
    "classes": ("classes",),
    "masks": ("masks",),
}
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Npz:
    """Arrays in a NumPy file: `images`, `image` or `x`, and optionally `labels`, `label` or `y`, `classes`, `masks`.

    Images are (N, H, W, C), (N, C, H, W), or gray ones (N, H, W), of any number of channels, uint8 or floats in [0, 1],
    which are rounded to 8 bits; masks are (N, H, W), nonzero on the object. Pickled arrays are refused. Every split has
    all images unless `split` divides the classes.
    """

    reads: ClassVar[tuple[str, ...]] = (".npz",)  # bare paths that select this data set

    path: str  # .npz file
    split: str = "all"  # how to split the classes: all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        path = Path(self.path).expanduser()
        shown = printable(path)
        arrays = _load(path, shown)
        if "images" not in arrays:
            raise InputError(f"`{shown}` has no array `images` or `x`", "save it with `numpy.savez(path, images=...)`")
        try:
            pixels = _pixels(arrays["images"])
            labels = _labels(arrays["labels"], len(pixels)) if "labels" in arrays else None
            classes = _classes(arrays.get("classes"), labels)
            masks = _masks(arrays["masks"], pixels) if "masks" in arrays else None
        except ValueError as error:
            raise InputError(f"`{shown}`: {error}", "see `stochx list datasets:npz`") from None
        data = from_arrays(pixels, labels, classes, path.stem, masks)
        return restricted(data, self.split, split)


def _load(path: Path, shown: str) -> dict[str, np.ndarray]:
    with open_file(path) as file:
        if not zipfile.is_zipfile(file):
            raise InputError(f"`{shown}` is not an npz file", "save it with `numpy.savez(path, images=...)`")
        try:
            free = available_memory()
            arrays = read_npz(file, [*chain(*NAMES.values())], sys.maxsize if free is None else free)
        except MemoryError:
            raise InputError(f"`{shown}` does not fit into memory", "split it") from None
        except Exception as error:  # malicious bytes: zipfile, zlib and the header's parser raise almost anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"`{shown}` cannot be read: {reason}", "save it with `numpy.savez`") from error
    return {
        role: arrays[name]
        for role, names in NAMES.items()
        for name in reversed(names)  # the first name has precedence
        if name in arrays
    }


def _pixels(images: np.ndarray) -> np.ndarray:
    """Convert images to (N, H, W, C) uint8."""
    if images.ndim == 3 and images.shape[2] >= MIN_SIDE:  # else it is one image (H, W, C)
        images = images[:, :, :, None]
    if images.ndim != 4:
        raise ValueError(f"images must be (N, H, W, C), (N, C, H, W) or (N, H, W), got {images.shape}")
    if channel_axis(images.shape) == 1:
        images = images.transpose(0, 2, 3, 1)
    if len(images) == 0:
        raise ValueError("it contains no images")
    if min(images.shape[1:3]) < MIN_SIDE:
        raise ValueError(f"images must be at least {MIN_SIDE} x {MIN_SIDE}, got {images.shape[1]} x {images.shape[2]}")
    if np.issubdtype(images.dtype, np.floating):
        low, high = images.min(), images.max()
        if np.isnan(low):
            raise ValueError("images contain NaN")
        if low < 0 or high > 1:
            raise ValueError(f"float images must lie in [0, 1], got {low:.4g} to {high:.4g}")
        images = (images * images.dtype.type(255)).round().astype(np.uint8)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 or floats, got {images.dtype}")
    return np.ascontiguousarray(images)


def _labels(labels: np.ndarray, count: int) -> list[int]:
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(f"{count} images need labels ({count},), got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
        raise ValueError(f"labels must lie in 0 to {MAX_CLASSES - 1}, got {labels.min()} to {labels.max()}")
    return [int(label) for label in labels.reshape(-1)]


def _classes(classes: np.ndarray | None, labels: list[int] | None) -> list[str]:
    needed = max(labels) + 1 if labels is not None else 0
    if classes is None:
        return [str(k) for k in range(needed)]
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError(f"classes must be a list of strings, got {classes.dtype} {classes.shape}")
    if len(classes) < needed:
        raise ValueError(f"label {needed - 1} is out of range for {len(classes)} classes")
    return [str(name) for name in classes]


def _masks(masks: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    if masks.shape != pixels.shape[:3]:
        raise ValueError(f"masks must be {pixels.shape[:3]}, got {masks.shape}")
    if masks.dtype.kind not in "bui":
        raise ValueError(f"masks must be booleans or integers, got {masks.dtype}")
    return masks.astype(bool)
