"""Class folders inside a zip."""

from __future__ import annotations

import io
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from stochx.datasets import Split
from stochx.datasets._splits import restricted
from stochx.datasets._tree import class_tree, image_names
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable

MAX_BYTES = 256 * 2**20  # of one image file, unpacked
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # bzip2 and lzma are unpacked without a limit in steps


@dataclass(frozen=True)
class Zip:
    """Images in class folders inside a zip, nested ones too; `train`, `val` and `test` folders are the splits.

    Nothing is unpacked to disk: images are read from the zip when asked for; keys are the paths inside it. For few-shot
    learning `split` gives classes to splits; it ignores what folders are called.
    """

    reads: ClassVar[tuple[str, ...]] = (".zip",)  # bare paths that name this data set

    path: str  # zip file
    split: str = "auto"  # classes of train, val and test: auto, all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        path = Path(self.path).expanduser()
        archive = _Archive(path)
        names = image_names(archive.members)
        if not names:
            raise InputError(f"no image in `{printable(path)}`", "looked in all its folders")
        tree = class_tree(names, split, printable(path), self.split)
        data = Data(tree.classes, tree.paths, lambda i: archive.read(tree.paths[i]), tree.labels)
        return restricted(data, self.split, split)


class _Archive:
    """An open zip; threads may share it, and a forked process opens its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.zip = self._open()
        self.members = {info.filename: info for info in self.zip.infolist() if not info.is_dir()}

    def _open(self) -> zipfile.ZipFile:
        self.owner = os.getpid()
        with images.open_file(self.path):  # its errors name what is wrong with the path
            pass
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise InputError(
                f"`{printable(self.path)}` is not a zip, or is damaged: {error}", "bring it again"
            ) from None

    def read(self, name: str) -> Image.Image:
        info, shown = self.members[name], f"{printable(self.path)}:{printable(name)}"
        if info.flag_bits & 1:
            raise InputError(f"`{shown}` is encrypted", "zip the images without a password")
        if info.compress_type not in BOUNDED:
            raise InputError(f"`{shown}` is compressed in an unusual way", "zip the images with `deflate`")
        if info.file_size > MAX_BYTES:
            raise InputError(f"`{shown}` unpacks to more than {MAX_BYTES // 2**20} MiB", "scale the image down first")
        with self.lock:
            if self.owner != os.getpid():  # a forked process shares the file's position with its parent
                self.zip = self._open()
        try:
            content = self.zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise InputError(f"`{shown}` is damaged: {error}", "bring the zip again") from None
        return images.read(io.BytesIO(content), shown)
