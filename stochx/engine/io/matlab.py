"""MATLAB's files of version 5, whose every length is checked: other readers end the process where bytes are damaged."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

MOST = 2**24  # bytes of a file, and of a variable that is unpacked; devkits have a fifth of it
DEPTH = 8  # of arrays in arrays
HEADER = 128  # bytes
ORDERS: dict[bytes, Literal["<", ">"]] = {b"IM": "<", b"MI": ">"}
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15  # kinds of elements
CELL, STRUCT, CHARACTERS = 1, 2, 4  # classes of arrays
NUMERIC = range(6, 16)


def read_mat(file: BinaryIO, name: str) -> Any:
    """Return a variable of a file: an array of numbers, flat; a text; a list of cells, or of mappings for a struct.

    Raises `ValueError` for what is damaged or large, for other kinds of values, and if there is no such variable.
    """
    content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it holds more than {MOST // 2**20} MiB")
    order = ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("it is no MATLAB file of version 5")
    whole = _Elements(memoryview(content)[HEADER:], order)
    while whole.content:
        kind, data = whole.take()
        if kind == COMPRESSED:
            kind, data = _Elements(_unpacked(data), order).take()
        parts = _Elements(data, order)
        shape, called, array = parts.start() if kind == MATRIX else ((), "", 0)
        if called == name:
            return parts.value(array, shape, 0)
    raise ValueError(f"it holds no `{name}`")


def _unpacked(data: memoryview) -> memoryview:
    reader = zlib.decompressobj()
    try:
        made = reader.decompress(data, MOST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if reader.unconsumed_tail:
        raise ValueError(f"a variable unpacks to more than {MOST // 2**20} MiB")
    return memoryview(made)


@dataclass
class _Elements:
    """Bytes of which one element after the other is taken."""

    content: memoryview
    order: Literal["<", ">"]

    def take(self) -> tuple[int, memoryview]:
        """Return the kind of the next element, and its bytes."""
        kind, size = struct.unpack(f"{self.order}II", self._cut(8, self.content[:8]))
        if kind >> 16:  # a short element, within what would be its size
            kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, 8
            self._cut(size, self.content[4:8])
        else:
            start, end = 8, 8 + size + (-size % 8 if kind != COMPRESSED else 0)
        data = self._cut(size, self.content[start : start + size])
        self.content = self.content[end:]
        return kind, data

    @staticmethod
    def _cut(size: int, data: memoryview) -> memoryview:
        if len(data) < size:
            raise ValueError("it is cut off")
        return data

    def start(self) -> tuple[tuple[int, ...], str, int]:
        """Take what an array begins with: its shape, name and class."""
        if not self.content:  # an empty array may have nothing at all
            return (0,), "", NUMERIC[0]
        flags = self._numbers()
        shape = tuple(int(side) for side in self._numbers())
        name = bytes(self.take()[1]).decode("latin-1")
        if not flags.size or not shape or min(shape) < 0:
            raise ValueError("an array has no shape")
        return shape, name, int(flags[0]) & 0xFF

    def value(self, kind: int, shape: tuple[int, ...], depth: int) -> Any:
        """Take the contents of an array."""
        if depth > DEPTH:
            raise ValueError("arrays lie too deep in arrays")
        if kind == CHARACTERS:
            return self._text()
        if kind in NUMERIC:
            return self._numbers() if self.content else np.zeros(0)
        if kind == CELL:
            return [self._inner(depth) for _ in range(math.prod(shape))]
        if kind == STRUCT:
            names = list(self._fields())
            if not names:
                raise ValueError("a struct has no fields")
            return [{name: self._inner(depth) for name in names} for _ in range(math.prod(shape))]
        raise ValueError(f"an array of class {kind} is none of numbers, texts, cells or structs")

    def _inner(self, depth: int) -> Any:
        kind, data = self.take()
        if kind != MATRIX:
            raise ValueError("an array lacks an element")
        parts = _Elements(data, self.order)
        shape, _, array = parts.start()
        return parts.value(array, shape, depth + 1)

    def _numbers(self) -> np.ndarray:
        kind, data = self.take()
        if kind not in NUMBERS:
            raise ValueError(f"numbers of kind {kind} are none")
        return np.frombuffer(data, np.dtype(NUMBERS[kind]).newbyteorder(self.order))

    def _text(self) -> str:
        kind, data = self.take()
        if kind not in TEXTS:
            raise ValueError(f"a text of kind {kind} is none")
        ending = {"<": "-le", ">": "-be"}[self.order] if TEXTS[kind] in ("utf-16", "utf-32") else ""
        return bytes(data).decode(TEXTS[kind] + ending)

    def _fields(self) -> Iterator[str]:
        length, names = self._numbers(), bytes(self.take()[1])
        size = int(length[0]) if length.size else 0
        if size < 1 or len(names) % size:
            raise ValueError("a struct has no names of its fields")
        for start in range(0, len(names), size):
            yield names[start : start + size].partition(b"\0")[0].decode("latin-1")
