"""Archives whose members have names of their own: readers differ in which of two of one name they take."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np

from stochx.errors import printable


def check_names(names: Iterable[str]) -> None:
    """Raise `ValueError` for names of members of which one occurs twice."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the archive holds two members of one name, `{printable(twice)}`")


def read_npy(file: BinaryIO, most: int) -> np.ndarray:
    """Return the array of an .npy file.

    Raises `MemoryError` for a file of more than `most` bytes, and for malicious bytes almost anything.
    """
    if file.seek(0, io.SEEK_END) > most:
        raise MemoryError
    file.seek(0)
    array: np.ndarray = np.load(file, allow_pickle=False)
    return array


def read_npz(file: BinaryIO, names: Sequence[str], most: int) -> dict[str, np.ndarray]:
    """Return those arrays of an .npz file that are among `names`, or the only array.

    Raises `MemoryError` for arrays of more than `most` bytes, before any is read, and for malicious bytes almost
    anything.
    """
    file.seek(0)
    with np.load(file, allow_pickle=False) as content:
        check_names(content.files)
        wanted = content.files if len(content.files) == 1 else [name for name in names if name in content.files]
        members = {name.removesuffix(".npy"): content.zip.getinfo(name) for name in content.zip.namelist()}
        if sum(members[name].file_size for name in wanted) > most:
            raise MemoryError
        arrays = {name: content[name] for name in wanted}
    broken = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if broken is not None:  # numpy gives the bytes of what does not begin as an array
        raise ValueError(f"`{printable(broken)}` is not an array")
    return arrays
