"""Map files of odd arrays, lying headers and damaged bytes."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from random import Random

import numpy as np
from torture.inputs import odd
from torture.inputs.command import command

SHAPES = ((), (0,), (1,), (8, 8), (3, 8, 8), (8, 8, 3), (5, 8, 8), (1, 1, 8, 8), (4, 4, 4), (1, 1), (3, 1, 1), (8, 0))
LIES = ("10**9", "2000000000", "300000000", "-1", "0", "3,0", "9" * 30, "8,8,3,1", "True", "1.5", "2**40, 0", "3,8,8")
KINDS = ("<f4", "<c16", "|O", "<U9999999", "|S0", "<f2", "<f16", "|V100000000", "<M8[s]", "<u8", "|b1", "xx", "<f4,<f4")
NAMES = (
    ["map"],
    ["map"],
    ["map", "image"],
    ["map", "method", "target"],
    ["x"],
    ["map", "map"],
    ["../map"],
    ["a", "b"],
    [],
)
METRICS = ("sparseness", "complexity", "autvc")


def prepare(folder: Path) -> None:
    """Score a map."""
    np.save(folder / "map.npy", np.random.default_rng(0).normal(size=(3, 8, 8)))
    command("score", "--maps", "map.npy", "-s", "sparseness", "-o", "out", "--overwrite", cwd=folder)


def maps(draw: Random, folder: Path) -> None:
    """Score one or two maps."""
    (folder / "maps").mkdir()
    for number in range(draw.choice((1, 1, 2))):
        if draw.random() < 0.4:
            (folder / "maps" / f"{number}.npy").write_bytes(array(draw))
            continue
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", draw.choice((0, 8, 12, 14))) as members:
            for name in draw.choice(NAMES):
                members.writestr(f"{name}.npy", array(draw) if name in ("map", "x", "a") else _said(draw))
        content = file.getvalue()
        (folder / "maps" / f"{number}.npz").write_bytes(odd.damaged(draw, content) if draw.random() < 0.3 else content)
    command("score", "--maps", "maps", "-s", draw.choice(METRICS), "-o", "out", "--no-figure", cwd=folder)


def array(draw: Random) -> bytes:
    """Return the bytes of an .npy file: honest, odd, damaged, or with a lying header."""
    kind = draw.randrange(8)
    values = np.random.default_rng(draw.randrange(99)).normal(size=(3, 8, 8)) * 9
    if kind == 0:
        return header(f"'descr': '<f4', 'fortran_order': False, 'shape': ({draw.choice(LIES)},)") + bytes(1000)
    if kind == 1:
        order = draw.choice(("True", "False", "5"))
        return header(f"'descr': '{draw.choice(KINDS)}', 'fortran_order': {order}, 'shape': (3, 8, 8)") + b"\x7f" * 6000
    if kind == 2:
        values[:] = draw.choice((np.nan, np.inf, -np.inf, 1e300, 1e-300, 0))
        return saved(values)
    if kind == 3:
        return saved(np.zeros(draw.choice((*SHAPES, (1,) * 32))))
    if kind == 4:
        return header("'x': " + "(" * draw.choice((10, 5000, 60_000)))
    if kind == 5:
        return header("'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (8, 8)") + bytes(256)
    content = saved(values.astype(draw.choice(("f2", "f4", "f8", "i4", "u1", "i8", ">f4"))))
    return odd.damaged(draw, content) if kind == 6 else content


def _said(draw: Random) -> bytes:
    """Return what stands in the place of an image's name, a method or a class."""
    return saved(
        np.array(draw.choice((*odd.TEXTS, "image", "ig", 2**63 - 1, -5, 1.5, ["a", "b"], 0, 1, True, b"ig", 2**63)))
    )


def header(text: str) -> bytes:
    """Return the header of an .npy file."""
    content = f"{{{text}, }}".encode("latin1")
    content += b" " * ((64 - (11 + len(content)) % 64) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content) % 65536) + content


def saved(values: np.ndarray) -> bytes:
    """Return the bytes of an honest .npy file."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()
