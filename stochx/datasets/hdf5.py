"""Images in an HDF5 file."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from stochx.datasets import Split
from stochx.datasets._shards import check_count, damaged, numbered, required
from stochx.datasets._splits import restricted
from stochx.engine.io import images
from stochx.engine.io.data import Data, channel_axis
from stochx.engine.io.images import MAX_PIXELS, MIN_SIDE, RGB, Picture
from stochx.errors import InputError, printable, quoted
from stochx.input_files import open_file

IMAGES = ("images", "image", "x")
LABELS = ("labels", "label", "y")
CACHE_BYTES = 64 * 2**20  # unpacked chunks that stay in memory
MAX_BYTES = 2**30  # largest chunk


@dataclass(frozen=True)
class Hdf5:
    """Images in an HDF5 file: a dataset `images`, `image` or `x`, and optionally `labels`, `label` or `y`.

    Images are (N, H, W, C), (N, C, H, W), or gray ones (N, H, W), of any number of channels, uint8 or floats in [0, 1],
    which are rounded to 8 bits; or (N,) encoded ones, such as the bytes of JPEG files. Labels are numbers or names.
    Images are read on demand. Every split has all images unless `split` divides the classes. Needs the package h5py.
    """

    reads: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")  # bare paths that select this data set

    path: str  # HDF5 file
    image: str = ""  # dataset of images, such as `train/images`; default one of the usual names
    label: str = ""  # dataset of labels; default one of the usual names
    split: str = "all"  # how to split the classes: all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        file = _File(Path(self.path).expanduser(), self.image, self.label)
        labels, classes = file.labels()
        keys = [f"{file.path.stem}/{i:05d}" for i in range(file.count)]
        return restricted(Data(classes, keys, file.read, labels), self.split, split)


class _File:
    """An open HDF5 file; threads share it, and a forked process opens its own."""

    def __init__(self, path: Path, image: str, label: str) -> None:
        self.path, self.shown = path, printable(path)
        open_file(path).close()  # raises errors that explain a bad path
        self.h5py = required("h5py", path, "hdf5")
        self.lock = threading.Lock()
        self.content = self._open()
        self.image = self._name(image, IMAGES) or self._no_images()
        self.label = self._name(label, LABELS)
        pixels = self._dataset(self.image)
        self.count, self.cell = int(pixels.shape[0]), tuple(pixels.shape[1:])
        check_count(self.count, self.shown)
        self._check_images(pixels.dtype)

    def _open(self) -> Any:
        self.owner = os.getpid()
        try:
            return self.h5py.File(self.path, "r", rdcc_nbytes=CACHE_BYTES)
        except Exception as error:
            raise damaged(self.shown, error, "check that it is an HDF5 file, or download it again") from error

    def _name(self, asked: str, usual: Sequence[str]) -> str:
        try:
            found = [name for name in ([asked] if asked else usual) if name in self.content]
        except Exception as error:
            raise damaged(self.shown, error) from error
        if asked and not found:
            raise InputError(f"`{self.shown}` has no dataset `{printable(asked)}`", f"it has {self._listed()}")
        return found[0] if found else ""

    def _no_images(self) -> str:
        raise InputError(
            f"`{self.shown}` has no dataset `images`, `image` or `x`",
            f"name one with `image=`; it has {self._listed()}",
        )

    def _listed(self) -> str:
        try:
            return quoted(list(self.content), 12) or "none"
        except Exception as error:
            raise damaged(self.shown, error) from error

    def _dataset(self, name: str) -> Any:
        """Return a dataset whose values lie in this file, with a first axis."""
        try:
            found = self.content[name]
            if not isinstance(found, self.h5py.Dataset) or not found.shape:
                raise InputError(f"`{self.shown}`: `{printable(name)}` is not an array", f"it has {self._listed()}")
            if found.is_virtual or found.external or found.file.filename != self.content.filename:
                raise InputError(f"`{self.shown}`: `{printable(name)}` lies in another file", "name that file")
            if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > MAX_BYTES:
                raise InputError(
                    f"`{self.shown}`: `{printable(name)}` has chunks of more than {MAX_BYTES // 2**30} GiB",
                    "write it with smaller `chunks`, such as those of one image",
                )
        except InputError:
            raise
        except Exception as error:
            raise damaged(self.shown, error) from error
        return found

    def _check_images(self, kind: np.dtype[Any]) -> None:
        name, hint = f"`{self.shown}`: `{printable(self.image)}`", "see `stochx list datasets:hdf5`"
        if not self.cell:
            if kind.kind not in "OSV":
                raise InputError(f"{name} must contain images, got {kind} ({self.count},)", hint)
            return
        shape = (self.count, *self.cell)
        if len(shape) not in (3, 4):
            raise InputError(f"{name} must be (N, H, W, C), (N, C, H, W) or (N, H, W), got {shape}", hint)
        try:
            sides = self.cell[1:] if self._is_planar() else self.cell[:2]
        except ValueError as error:
            raise InputError(f"{name}: {error}", hint) from None
        if not (min(sides) >= MIN_SIDE and math.prod(sides) <= MAX_PIXELS):
            raise InputError(
                f"{name} must be of {MIN_SIDE} x {MIN_SIDE} to {MAX_PIXELS // 10**6} million pixels, got "
                f"{sides[0]} x {sides[1]}",
                hint,
            )
        if kind != np.uint8 and kind.kind != "f":
            raise InputError(f"{name} must be uint8 or floats in [0, 1], got {kind}", hint)

    def _is_planar(self) -> bool:
        return len(self.cell) == 3 and channel_axis((self.count, *self.cell)) == 1

    def read(self, index: int) -> Picture:
        shown = f"{self.shown}:{printable(self.image)}:{index}"
        with self.lock:
            if self.owner != os.getpid():  # a forked process shares the file's state with its parent
                self.content = self._open()
            try:
                values = self.content[self.image][index]
            except Exception as error:
                raise damaged(shown, error) from error
        if not self.cell:
            content = values if isinstance(values, bytes) else np.asarray(values).tobytes()
            return images.read(io.BytesIO(content), shown)
        values = np.moveaxis(values, 0, 2) if self._is_planar() else values
        if values.dtype != np.uint8:
            if not (values.min() >= 0 and values.max() <= 1):
                raise InputError(f"`{shown}` leaves [0, 1]", "store uint8, or floats in [0, 1]")
            values = (values * values.dtype.type(255)).round().astype(np.uint8)
        return Image.fromarray(values) if values.shape[2:] == (RGB,) else values.reshape(*values.shape[:2], -1)

    def labels(self) -> tuple[list[int] | None, tuple[str, ...]]:
        """Return the label of each image, and the classes; none where there is no such dataset."""
        if not self.label:
            return None, ()
        found = self._dataset(self.label)
        name = f"{self.shown}:{printable(self.label)}"
        if found.shape[0] != self.count or math.prod(found.shape) != self.count:
            raise InputError(
                f"`{name}`: {self.count} images need labels ({self.count},), got {found.shape}", "name others"
            )
        try:
            values = found[()].reshape(-1).tolist()
            texts = [value.decode() if isinstance(value, bytes) else value for value in values]
        except Exception as error:
            raise damaged(name, error) from error
        if not all(isinstance(text, int | str) for text in texts):
            raise InputError(f"`{name}` must be numbers or names, got {found.dtype}", "name another one with `label=`")
        return numbered(texts, name)
