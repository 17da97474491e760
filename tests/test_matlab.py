"""MATLAB's files: scipy writes them and they are read as they were; damaged ones are one kind of error."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest

from stochx.engine.io.matlab import MOST, read_mat

io_of_scipy = pytest.importorskip("scipy.io")
TABLE = np.array([("1.jpg", 2.0), ("x é", 1)], [("fname", object), ("class", object)])
NESTED = {"a": {"b": 3}}
for _ in range(9):
    NESTED = {"a": NESTED}


def written(compressed=False, **arrays):
    file = io.BytesIO()
    io_of_scipy.savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


def read(content, name):
    return read_mat(io.BytesIO(content), name)


@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_texts_cells_and_structs_are_read_as_they_were_written(compressed):
    content = written(
        compressed,
        table=TABLE,
        names=np.array(["Audi A", "BMW B"], object),
        numbers=np.arange(6.0).reshape(2, 3),
        long=np.arange(1000),
        none=np.zeros((0, 0)),
    )
    assert read(content, "table") == [{"fname": "1.jpg", "class": 2}, {"fname": "x é", "class": 1}]
    assert read(content, "names") == ["Audi A", "BMW B"]
    assert read(content, "numbers").tolist() == [0, 3, 1, 4, 2, 5]
    assert read(content, "long").tolist() == list(range(1000)) and read(content, "none").tolist() == []


def test_files_of_the_other_byte_order_are_read():
    name = struct.pack(">HHI", 1, 1, 0x61000000)  # a short element: `a`
    array = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 1, 2) + name
    array += struct.pack(">II", 9, 16) + struct.pack(">dd", 0.5, 7)
    assert read(bytes(126) + b"MI" + struct.pack(">II", 14, len(array)) + array, "a").tolist() == [0.5, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no MATLAB file of version 5"),
        (b"x" * 200, "no MATLAB file of version 5"),
        (written(b=1), "holds no `a`"),
        (written(a=1)[:-4], "cut off"),
        (written(True, a=np.arange(99))[:-20], "cut off"),
        (written(True, a=np.zeros(MOST // 8 + 9)), "unpacks to more than 16 MiB"),
        (written(a=np.zeros(MOST // 8 + 9)), "more than 16 MiB"),
        (written(a=NESTED), "too deep"),
        (written(a=np.eye(3, dtype=complex)).replace(struct.pack("<I", 6 + 2048), struct.pack("<I", 5)), "class 5"),
    ],
)
def test_what_is_damaged_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        read(content, "a")


def test_random_damage_gives_no_other_error():
    draw = random.Random(0)
    whole = [written(compressed, a=TABLE) for compressed in (False, True)]
    read_whole = 0
    for _ in range(2000):
        content = bytearray(draw.choice(whole))
        for _ in range(draw.choice((1, 2, 9))):
            content[draw.randrange(126, len(content))] = draw.choice((0, 1, 14, 255, draw.randrange(256)))
        try:
            read_whole += isinstance(read(bytes(content), "a"), list)
        except ValueError:
            continue
    assert 0 < read_whole < 2000
