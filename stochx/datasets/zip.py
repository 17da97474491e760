"""Class folders inside a zip."""

from __future__ import annotations

import io
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image

from stochx.datasets import Split
from stochx.datasets._listing import listing
from stochx.datasets._splits import restricted
from stochx.datasets._tree import class_tree
from stochx.engine.io import images
from stochx.engine.io.archives import check_names
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable
from stochx.input_files import open_file

MAX_BYTES = 256 * 2**20  # largest unpacked image file
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # bzip2 and lzma cannot be unpacked in bounded steps


@dataclass(frozen=True)
class Zip:
    """Images in class folders inside a zip; folders `train`, `val` and `test` are splits.

    Nothing is unpacked to disk: images are read from the zip on demand; keys are the paths inside it. For few-shot
    learning `split` assigns classes to splits, and the names of split folders are ignored.
    """

    reads: ClassVar[tuple[str, ...]] = (".zip",)  # bare paths that select this data set

    path: str  # zip file
    split: str = "auto"  # how to split the classes: auto, all, mod4, or a folder or JSON file of class lists
    nested: Literal["refused", "classes", "parts"] = "refused"  # folders inside class folders: classes, or parts of one

    def __call__(self, split: Split) -> Data:
        path = Path(self.path).expanduser()
        archive = _Archive(path)
        found = listing(archive.members, archive.folders)
        found.check_images(printable(path), "zip class folders of images")
        tree = class_tree(found, split, printable(path), self.split, self.nested)
        data = Data(tree.classes, tree.paths, lambda i: archive.read(tree.paths[i]), tree.labels)
        return restricted(data, self.split, split)


class _Archive:
    """An open zip; threads share it, and a forked process opens its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.zip = self._open()
        # Old .NET writes backslashes.
        names = [(info.filename.replace("\\", "/"), info) for info in self.zip.infolist()]
        self.members = {name: info for name, info in names if not name.endswith("/")}
        self.folders = list(dict.fromkeys(name.rstrip("/") for name, _ in names if name.endswith("/")))
        try:
            check_names(name for name, _ in names if not name.endswith("/"))
        except ValueError as error:
            raise InputError(f"`{printable(path)}` is damaged: {error}", "zip the images again") from None

    def _open(self) -> zipfile.ZipFile:
        self.owner = os.getpid()
        with open_file(self.path):  # raises errors that explain a bad path
            pass
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise InputError(
                f"`{printable(self.path)}` is not a zip file, or is damaged: {error}", "download it again"
            ) from None

    def read(self, name: str) -> Image.Image:
        info, shown = self.members[name], f"{printable(self.path)}:{printable(name)}"
        if info.flag_bits & 1:
            raise InputError(f"`{shown}` is encrypted", "zip the images without a password")
        if info.compress_type not in BOUNDED:
            raise InputError(f"`{shown}` uses an unsupported compression", "zip the images with `deflate`")
        if info.file_size > MAX_BYTES:
            raise InputError(f"`{shown}` unpacks to more than {MAX_BYTES // 2**20} MiB", "scale the image down first")
        with self.lock:
            if self.owner != os.getpid():  # a forked process shares the file's position with its parent
                self.zip = self._open()
        try:
            content = self.zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise InputError(f"`{shown}` is damaged: {error}", "download it again") from None
        return images.read(io.BytesIO(content), shown)
