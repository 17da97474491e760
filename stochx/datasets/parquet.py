"""Images in Parquet files, as Hugging Face stores them."""

from __future__ import annotations

import io
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from stochx.datasets import Split
from stochx.datasets._shards import check_count, damaged, numbered, required, shards
from stochx.datasets._splits import restricted
from stochx.engine.io import images
from stochx.engine.io.data import Data
from stochx.errors import InputError, printable, quoted

IMAGES = ("image", "img", "images", "jpg", "png")
LABELS = ("label", "labels", "fine_label", "class", "y")
KEPT_BYTES = 256 * 2**20  # row groups that stay in memory, for images that are read in order
MAX_BYTES = 2 * 2**30  # largest row group

Labels = list[int | str]


@dataclass(frozen=True)
class Parquet:
    """Images in Parquet files: a column of encoded images, as bytes or as `{bytes, path}`, and one of labels.

    `path` is a file, a folder, or a pattern such as `data/*.parquet`. Files such as `train-00000-of-00002.parquet` and
    `validation-00000-of-00001.parquet` are splits; every split has all files if their names say of no two. Labels are
    numbers or names; columns and classes are those that Hugging Face notes in the files, where it does. Images are read
    by groups of rows. Needs the package pyarrow.
    """

    reads: ClassVar[tuple[str, ...]] = (".parquet",)  # bare paths that select this data set

    path: str  # file, folder of files, or pattern
    image: str = ""  # column of images; default the first one
    label: str = ""  # column of labels; default the first one
    split: str = "auto"  # how to split the classes: auto, all, mod4, or a folder or JSON file of class lists

    def __call__(self, split: Split) -> Data:
        found = shards(self.path, ".parquet", split)
        tables = [_Table(file, self.image, self.label) for file in found.of(self.split)]
        check_count(sum(table.count for table in tables), printable(self.path))
        odd = [table for table in tables if (table.label, table.names) != (tables[0].label, tables[0].names)]
        if odd:
            raise InputError(
                f"`{odd[0].shown}` has other labels than `{tables[0].shown}`", "name files of one data set"
            )
        labels, classes = self._labels(tables, found.files)
        keys = [f"{found.name(table.file)}/{row:05d}" for table in tables for row in range(table.count)]
        return restricted(Data(classes, keys, _Images(tables).read, labels), self.split, split)

    def _labels(self, tables: Sequence[_Table], files: Sequence[Path]) -> tuple[list[int] | None, tuple[str, ...]]:
        """Return the labels of some tables, and the classes, which are those of all files."""
        values = [value for table in tables for value in table.labels()]
        if all(value == -1 for value in values):
            return None, ()
        names = tables[0].names
        if not names:
            opened = {table.file for table in tables}
            others = [_Table(file, self.image, self.label) for file in files if file not in opened]
            beside = [value for table in others for value in table.labels() if value != -1]
            labels, classes = numbered([*values, *beside], printable(self.path))
            return labels[: len(values)], classes
        numbers = [value for value in values if isinstance(value, int) and 0 <= value < len(names)]
        if len(numbers) < len(values):
            raise InputError(
                f"`{printable(self.path)}` has labels outside of its {len(names)} classes",
                f"name another column than `{printable(tables[0].label)}` with `label=`",
            )
        return numbers, names


@dataclass(frozen=True)
class _Noted:
    """Columns of which Hugging Face notes that they are images, or labels: these with the names of their classes."""

    images: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class _Table:
    """The columns of a Parquet file, which is open only while it is read."""

    def __init__(self, file: Path, image: str, label: str) -> None:
        self.file, self.shown = file, printable(file)
        self.parquet = required("pyarrow.parquet", file, "parquet")
        try:
            with self.parquet.ParquetFile(file) as content:
                self.metadata, schema = content.metadata, content.schema_arrow
                self.columns: list[str] = schema.names
                types = {name: schema.field(name).type for name in self.columns if self.columns.count(name) == 1}
                noted = _noted(schema.metadata or {})
            sizes = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
            if min(sizes, default=0) < 0:
                raise ValueError("a group of rows has a size below 0")
            self.starts: list[int] = [0, *accumulate(sizes)]
        except Exception as error:
            raise damaged(self.shown, error, "check that it is a Parquet file, or download it again") from error
        check_count(max(1, self.count), self.shown)  # a file of several may be empty
        encoded = [name for name, kind in types.items() if _has_bytes(kind)]
        usual = [name for name in IMAGES if name in encoded]
        self.image = self._column(image, [*(name for name in types if name in noted.images), *usual, *encoded], "image")
        if self.image not in encoded:
            raise InputError(
                f"`{self.shown}`: the column `{printable(self.image)}` contains {types.get(self.image)}, not images",
                "it must contain encoded images, as bytes or as `{bytes, path}`",
            )
        self.cells = f"{self.image}.bytes" if _is_struct(types[self.image]) else self.image
        usual = [name for name in LABELS if name in types and name != self.image]
        self.label = self._column(label, [*(name for name in types if name in noted.labels), *usual, ""], "label")
        self.names = noted.labels.get(self.label, ())

    @property
    def count(self) -> int:
        return self.starts[-1]

    def _column(self, asked: str, found: Sequence[str], role: str) -> str:
        if not found or (asked and asked not in self.columns):
            missing = f"column `{printable(asked)}`" if asked else f"column of {role}s"
            raise InputError(
                f"`{self.shown}` has no {missing}", f"name one with `{role}=`; it has {quoted(self.columns, 12)}"
            )
        return asked or found[0]

    def labels(self) -> Labels:
        """Return the labels of all rows, -1 for each where there is no such column."""
        if not self.label:
            return [-1] * self.count
        try:
            values = [value for i in range(len(self.starts) - 1) for value in self._read(i, self.label).to_pylist()]
        except UnicodeDecodeError as error:
            raise damaged(self.shown, error) from error
        odd = [value for value in values if not isinstance(value, int | str)]
        if odd:
            raise InputError(
                f"`{self.shown}`: the column `{printable(self.label)}` has the label `{printable(odd[0])[:40]}`",
                "name a column of numbers or names with `label=`",
            )
        if len(values) != self.count:
            raise damaged(self.shown, ValueError(f"{len(values)} labels for {self.count} rows"))
        return [int(value) if isinstance(value, int) else value for value in values]

    def group(self, index: int) -> Any:
        """Return the encoded images of a group of rows."""
        return self._read(index, self.cells)

    def _read(self, index: int, column: str) -> Any:
        # The sizes of its columns would be more exact, but pyarrow ends the process where these are damaged.
        if self.metadata.row_group(index).total_byte_size > MAX_BYTES:
            raise InputError(
                f"`{self.shown}` has groups of rows of more than {MAX_BYTES // 2**30} GiB",
                "write it with a smaller `row_group_size`",
            )
        try:
            with self.parquet.ParquetFile(self.file, metadata=self.metadata) as content:
                table = content.read_row_group(index, columns=[column], use_threads=False)
            return (table.flatten() if column == self.cells else table)[column]
        except Exception as error:
            raise damaged(self.shown, error) from error


class _Images:
    """Images of tables by index; threads share the groups of rows that were read last."""

    def __init__(self, tables: Sequence[_Table]) -> None:
        self.tables = tables
        self.starts = [0, *accumulate(table.count for table in tables)]
        self.lock = threading.Lock()
        self.kept = OrderedDict[tuple[int, int], Any]()

    def read(self, index: int) -> Image.Image:
        place = bisect_right(self.starts, index) - 1
        table, row = self.tables[place], index - self.starts[place]
        group = bisect_right(table.starts, row) - 1
        shown = f"{table.shown}:{row}"
        try:
            content = self._group(place, group)[row - table.starts[group]].as_py()
        except IndexError as error:
            raise damaged(table.shown, error) from error
        if content is None:
            raise InputError(f"`{shown}` has no image", "the file must contain the images, not only their paths")
        return images.read(io.BytesIO(content), shown)

    def _group(self, place: int, group: int) -> Any:
        with self.lock:
            cells = self.kept.pop((place, group), None)
            cells = self.tables[place].group(group) if cells is None else cells
            self.kept[place, group] = cells
            while len(self.kept) > 1 and sum(kept.nbytes for kept in self.kept.values()) > KEPT_BYTES:
                self.kept.popitem(last=False)
            return cells


def _has_bytes(kind: Any) -> bool:
    """Return true for the type of a column of encoded images."""
    names = [kind.field(i).name for i in range(kind.num_fields)] if _is_struct(kind) else []
    return str(kind.field("bytes").type if names.count("bytes") == 1 else kind) in ("binary", "large_binary")


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<")


def _noted(metadata: Mapping[bytes, bytes]) -> _Noted:
    """Read Hugging Face's notes from the metadata of a schema; there are none where they are not as they should be."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Noted()
    kinds = {name: feature.get("_type") for name, feature in features if isinstance(feature, dict)}
    labels = {name: _names(feature.get("names")) for name, feature in features if kinds.get(name) == "ClassLabel"}
    return _Noted(tuple(name for name, kind in kinds.items() if kind == "Image"), labels)


def _names(names: object) -> tuple[str, ...]:
    """Return the names of classes, or nothing where they are no list of different texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        return ()
    return tuple(names)
