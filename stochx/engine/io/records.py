"""Records of images in order: lines that stay on the disk, so that a million take little memory, and new ones."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from stochx.engine.io.files import atomic
from stochx.engine.io.lines import Lines, Record, as_line

Keys = npt.NDArray[np.int64]
PLACE, INDEX, RANK = range(3)
T = TypeVar("T")


class Records(Sequence[Record]):
    """Records in order: of the `lines` at their places, and of the list `new`, whose k-th is at place -1 - k.

    `keys` (N, 3) are place, index of the image, and rank among the records of the image; of two with the same index and
    rank the later one counts. A record of a line has the index that is written there.
    """

    def __init__(self, lines: Lines, keys: Keys, new: Sequence[Record]) -> None:
        keys = keys[np.lexsort((keys[:, RANK], keys[:, INDEX]))]
        counts = np.ones(len(keys), bool)
        counts[:-1] = (keys[1:, INDEX:] != keys[:-1, INDEX:]).any(1)
        self._lines, self._keys, self._new = lines, keys[counts], new

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> list[Record]: ...
    def __getitem__(self, at: int | slice) -> Record | list[Record]:
        if isinstance(at, slice):
            return [*self._read(self._keys[at])]
        return next(self._read(self._keys[at][None]))

    def __iter__(self) -> Iterator[Record]:
        return self._read(self._keys)

    @property
    def images(self) -> set[int]:
        """The indices of the images."""
        return set(self._keys[:, INDEX].tolist())

    def complete(self, count: int) -> Records:
        """Return the records of images with `count` of them."""
        _, image, counts = np.unique(self._keys[:, INDEX], return_inverse=True, return_counts=True)
        return Records(self._lines, self._keys[(counts == count)[image]], self._new)

    def merged(self, new: Sequence[Record], rank: Callable[[Record], int]) -> Records:
        """Return these records and new ones, which replace all of their images."""
        rows = [(-1 - k, record["index"], rank(record)) for k, record in enumerate(new, len(self._new))]
        keys = np.array(rows, np.int64).reshape(-1, 3)
        kept = self._keys[~np.isin(self._keys[:, INDEX], keys[:, INDEX])]
        return Records(self._lines, np.concatenate([kept, keys]), [*self._new, *new])

    def write(self, path: Path) -> None:
        """Write a line for each record; lines of older files are copied, and read from the new one from then on.

        Raises `WriteError` as `atomic` does.
        """
        ends = array("q", [0])
        with atomic(path) as temporary, temporary.open("wb") as file:
            for line in self._each(self._keys, lambda line: line, as_line):
                ends.append(ends[-1] + file.write(line))
        places = self._keys[:, PLACE]
        self._lines = self._lines.of([path])
        self._keys[:, PLACE] = np.where(places < 0, places, ends[:-1])

    def _read(self, keys: Keys) -> Iterator[Record]:
        return self._each(keys, self._lines.decode, lambda record: record)

    def _each(self, keys: Keys, old: Callable[[bytes], T], new: Callable[[Record], T]) -> Iterator[T]:
        places: list[int] = keys[:, PLACE].tolist()
        lines = self._lines.at(place for place in places if place >= 0)
        for place in places:
            yield new(self._new[-1 - place]) if place < 0 else old(next(lines))
