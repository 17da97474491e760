"""Images in tar files, as WebDataset stores them."""

from __future__ import annotations

import io
import json
import logging
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar

from PIL import Image

from stochx.datasets import Split
from stochx.datasets._listing import is_hidden
from stochx.datasets._shards import check_count, damaged, numbered, shards
from stochx.datasets._splits import restricted
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.engine.io.images import SUFFIXES
from stochx.errors import InputError, printable
from stochx.input_files import open_file

MAX_BYTES = 256 * 2**20  # largest image file
MAX_LABEL_BYTES = 2**20  # largest file of a label

Label = int | str

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Webdataset:
    """Images in tar files: `key.jpg`, or of another format, beside `key.cls` or `key.json` with its label.

    `path` is a file, a folder, or a pattern such as `data/*.tar`. Files such as `train-000000.tar` and `val-000000.tar`
    are splits; every split has all files if their names say of no two. Labels are numbers or names, in JSON the value
    of `label`. Nothing is unpacked to disk: images are read from the tar files on demand.
    """

    reads: ClassVar[tuple[str, ...]] = (".tar",)  # bare paths that select this data set

    path: str  # tar file, folder of tar files, or pattern
    label: str = "label"  # key of the label in `key.json`, where there is no `key.cls`
    split: str = "auto"  # how to split the classes: auto, all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        found, shown = shards(self.path, ".tar", split), printable(self.path)
        samples = {file: _samples(file, self.label) for file in found.files}  # classes are those of all files
        labelled = [sample.label for part in samples.values() for sample in part if sample.label is not None]
        chosen = [(file, sample) for file in found.of(self.split) for sample in samples[file]]
        check_count(len(chosen), shown)
        keys = [f"{found.name(file)}/{sample.name}" for file, sample in chosen]

        def read(index: int) -> Image.Image:
            file, sample = chosen[index]
            with open_file(file) as stream:
                return images.read(io.BytesIO(sample.content(stream)), f"{printable(file)}:{printable(sample.name)}")

        values = [sample.label for _, sample in chosen if sample.label is not None]
        if not values:
            return restricted(Data((), keys, read), self.split, split)
        if len(values) < len(chosen):
            bare = next(key for key, (_, sample) in zip(keys, chosen, strict=True) if sample.label is None)
            raise InputError(
                f"`{shown}` has images without a label, such as `{printable(bare)}`", "add `key.cls` for each"
            )
        indices, classes = numbered([*values, *labelled], shown)
        return restricted(Data(classes, keys, read, indices[: len(values)]), self.split, split)


@dataclass
class _Sample:
    """An image file inside a tar: its name, where its bytes are, and its label."""

    name: str
    start: int
    size: int
    label: Label | None = None

    def content(self, stream: BinaryIO) -> bytes:
        stream.seek(self.start)
        return stream.read(self.size)


def _samples(file: Path, key: str) -> list[_Sample]:
    """Return the images of a tar file, in its order; raises `InputError` for one that is damaged."""
    found, labels, shown = dict[str, _Sample](), dict[tuple[str, str], Label | None](), printable(file)
    with open_file(file) as stream:
        try:
            members = [*_members(stream)]
        except Exception as error:  # malicious bytes make the parser raise almost anything
            raise damaged(shown, error, "check that it is a tar file that is not compressed") from error
        for member in members:
            path, where = PurePosixPath(member.name), f"{shown}:{printable(member.name)}"
            stem, _, kind = path.name.partition(".")
            name, most = str(path.parent / stem), MAX_LABEL_BYTES if kind in LABELS else MAX_BYTES
            if f".{kind.lower()}" not in SUFFIXES and kind not in LABELS:
                continue
            if member.size > most:
                raise InputError(f"`{where}` is larger than {most // 2**20} MiB", "make it smaller, or leave it out")
            if (name, kind) in labels:
                raise InputError(f"`{where}` is a second label of `{printable(name)}`", "name each sample once")
            if kind in LABELS:
                labels[name, kind] = LABELS[kind](member.content(stream), key, where)
            elif name in found:
                raise InputError(f"`{where}` is a second image of `{printable(name)}`", "name each sample once")
            else:
                found[name] = member
    alone = [name for name, _ in labels if name not in found]
    if alone:
        log.warning(
            "`%s`: leaving out labels without an image: %d, such as `%s`", shown, len(alone), printable(alone[0])
        )
    for name, image in found.items():
        image.label = labels.get((name, "cls"), labels.get((name, "json")))
    return [*found.values()]


def _members(stream: BinaryIO) -> Iterator[_Sample]:
    """List the plain files of a tar; raises `tarfile.TarError` and others where it is damaged or ends early."""
    end = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if member.size < 0 or member.offset_data + (member.size if member.isreg() else 0) > end:
                raise tarfile.ReadError("it ends early")  # a negative size would be read for ever
            if member.isreg() and not member.issparse() and not is_hidden(member.name):
                yield _Sample(member.name, member.offset_data, member.size)
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a bad header for the end
            raise tarfile.ReadError("it has a bad header")


def _plain(content: bytes, key: str, where: str) -> Label:
    """Return the label in a text file."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise damaged(where, error, "write a number or a name") from None
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text


def _noted(content: bytes, key: str, where: str) -> Label | None:
    """Return the label in a JSON file, if it holds one."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(where, error, "write valid JSON") from None
    value = table.get(key) if isinstance(table, dict) else None
    if value is not None and type(value) not in (int, str):
        raise InputError(
            f"`{where}`: `{printable(key)}` is neither a number nor a name", "name another key with `label=`"
        )
    return value


LABELS = {"cls": _plain, "json": _noted}  # readers of labels, by suffix
