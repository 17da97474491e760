"""Data sets whose archives, tables, lists and arrays are odd or damaged."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from torture.inputs import maps, odd, weights
from torture.inputs.command import command

from stochx.loading import load_data

IMAGES = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
NAMES = tuple("abc")
ODD_IMAGES = (
    IMAGES.astype("f4"), IMAGES / 255, np.full((6, 8, 8, 3), np.nan), IMAGES[:0], IMAGES[:, :0], IMAGES[..., 0],
    IMAGES[0], np.zeros((6, 8, 8, 5), "u1"), IMAGES.astype("i8") * 1000, np.array("x"), np.array([1, 2]),
    np.zeros((6, 1, 1, 3), "u1"), np.full((6, 8, 8, 3), np.inf, "f2"),
)  # fmt: skip
ODD_LABELS = (
    LABELS[:3], np.full(6, -1), np.full(6, 2**40), np.array([0, 1, 2, 3, 4, 2**31]), np.full(6, 0.5),
    np.full(6, np.nan), np.array(["a", "b"] * 3), np.array(["\x1b[31m"] * 6), np.eye(6), np.zeros((6, 1), int),
    np.full(6, True), LABELS[:0], np.array(5), np.array([2**63] * 6, "u8"), np.full(6, 1j), np.full(6, 99_999_999),
)  # fmt: skip
ODD_NAMES = (
    np.array(["a", "a", "a"]), np.array([1, 2, 3]), np.array("abc"), np.array(["\ud800", "b", "c"]), np.array([["a"]]),
    np.array(["\x1b[31m", "[/x]", ""]), np.array([b"a", b"b", b"\xff"]), np.array([], str),
)  # fmt: skip
ODD_MASKS = (np.ones((6, 8, 8)), np.ones((3, 8, 8)), np.ones((6, 4, 4)), np.full((6, 8, 8), np.nan), np.array("x"))


@cache
def image() -> bytes:
    """Return a small image."""
    file = io.BytesIO()
    Image.fromarray(IMAGES[0].repeat(2, 0).repeat(2, 1)).save(file, "PNG")
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, images=IMAGES, labels=LABELS, classes=np.array(NAMES))
    return file.getvalue()


def _zip(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as members:
        for number in range(6):
            members.writestr(f"{NAMES[number % 3]}/{number}.png", image())
    return file.getvalue()


def _tar(kind: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as members:
        for number in range(6):
            for suffix, content in (("png", image()), ("cls", str(number % 3).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                members.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _parquet(compression: str) -> bytes:
    file = io.BytesIO()
    cells = [{"bytes": image(), "path": f"{number}.png"} for number in range(6)]
    pyarrow.parquet.write_table(pa.table({"image": cells, "label": LABELS.tolist()}), file, compression=compression)
    return file.getvalue()


def _hdf5(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as arrays:
        arrays["images"], arrays["labels"] = images, labels
    return file.getvalue()


@cache
def archives() -> Mapping[str, bytes]:
    """Return a small data set in each kind of file; the name ends with the suffix."""
    return {
        "x.npz": _npz(),
        "stored.zip": _zip(zipfile.ZIP_STORED),
        "packed.zip": _zip(zipfile.ZIP_DEFLATED),
        "x.tar": _tar("w"),
        "snappy.parquet": _parquet("snappy"),
        "none.parquet": _parquet("none"),
        "x.h5": _hdf5(),
    }


def prepare(folder: Path) -> None:
    """Read every honest data set."""
    for name, content in archives().items():
        (folder / name).write_bytes(content)
        opened(str(folder / name))


def opened(text: str) -> None:
    """Load a data set, and read of it what a run reads."""
    data = load_data(text)
    for place in range(min(3, len(data))):
        data.item(place)
    _ = [int(label) for label in list(data.labels or ())[:100]], len(data.classes)


def data(draw: Random, folder: Path) -> None:
    """Read an archive or table that is damaged, or holds odd arrays."""
    kind = draw.randrange(4)
    if kind == 0:
        name, content = "x.npz", _odd_npz(draw)
    elif kind == 1:
        name, content = draw.choice(
            (("x.h5", _odd_hdf5), ("x.parquet", _odd_parquet), ("x.zip", _odd_zip), ("x.tar", _odd_tar))
        )
        content = content(draw)
    else:
        name = draw.choice(list(archives()))
        content = odd.damaged(draw, archives()[name])
    file = folder / f"x{Path(name).suffix}"
    file.write_bytes(content)
    if draw.random() < 0.2:
        (folder / "net.safetensors").write_bytes(weights.files()["classifier"])
        command("info", "net.safetensors", "--data", file.name, cwd=folder)
    else:
        opened(str(file))


def _odd_npz(draw: Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw.choice((0, 8))) as members:
        for name, share, honest, odder in (
            ("images", 0.95, IMAGES, ODD_IMAGES),
            ("labels", 0.9, LABELS, ODD_LABELS),
            ("classes", 0.4, np.array(NAMES), ODD_NAMES),
            ("masks", 0.2, np.ones((6, 8, 8)), ODD_MASKS),
        ):
            if draw.random() < share:
                values = draw.choice((honest, draw.choice(odder)))
                members.writestr(f"{name}.npy", maps.array(draw) if draw.random() < 0.15 else maps.saved(values))
    return file.getvalue()


def _odd_hdf5(draw: Random) -> bytes:
    images, labels = draw.choice((IMAGES, draw.choice(ODD_IMAGES))), draw.choice((LABELS, draw.choice(ODD_LABELS)))
    return _hdf5(
        *(
            values.astype("S") if values.dtype.kind == "U" and values.shape else values
            for values in _flat(images, labels)
        )
    )


def _flat(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.array([b"x"]) if values.dtype.kind == "U" else values for values in arrays)


def _odd_parquet(draw: Random) -> bytes:
    file = io.BytesIO()
    cells = (image(), b"", b"x", None, image()[:50])
    kinds = (
        [draw.choice(cells) for _ in range(6)],
        [draw.choice(({"bytes": draw.choice(cells), "path": draw.choice(("x", None))}, None)) for _ in range(6)],
        list(range(6)),
        ["x"] * 6,
        [[1, 2]] * 6,
    )
    labels = (
        [draw.choice((0, 1, -1, None, 2**40)) for _ in range(6)],
        [draw.choice((*odd.TEXTS[:4], "a", None)) for _ in range(6)],
        [0.5] * 6,
        [[1]] * 6,
    )
    table = {
        draw.choice(("image", "image", "img", "x")): draw.choice(kinds),
        draw.choice(("label", "label", "y")): draw.choice(labels),
    }
    try:
        pyarrow.parquet.write_table(pa.table(table), file, row_group_size=draw.choice((1, 4, 100)))
    except (pa.ArrowException, UnicodeError):  # no table
        return b""
    return file.getvalue()


def odd_name(draw: Random) -> str:
    return draw.choice(
        (*odd.TEXTS, "a/b", "/a", "../a", "a/../../b", ".a", "__MACOSX/a", "a\\b", "c:\\a")
    ) + draw.choice(("/0.png", ".png", "", "/", ".PNG", "/x.txt"))


def _odd_zip(draw: Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw.choice((0, 8, 12, 14))) as members:
        for number in range(6):
            name = odd_name(draw) if draw.random() < 0.4 else f"{NAMES[number % 3]}/{number}.png"
            with suppress(UnicodeError, IndexError):  # no name of a member
                members.writestr(name[:60_000], draw.choice((image(), image(), b"", bytes(10**6))))
    return file.getvalue()


def _odd_tar(draw: Random) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=draw.choice(("w", "w", "w:gz", "w:xz"))) as members:
        for number in range(6):
            for suffix, content in (
                ("png", image()),
                ("cls", draw.choice((b"0", b"1", b"-1", b"x", b"9" * 5000, b"", b"\xff"))),
            ):
                member = tarfile.TarInfo(odd_name(draw)[:200] if draw.random() < 0.2 else f"{number}.{suffix}")
                member.size, member.type = (
                    len(content),
                    draw.choice((*[tarfile.REGTYPE] * 9, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)),
                )
                member.linkname = draw.choice(("", "0.png", "/etc/passwd"))
                with suppress(UnicodeError, ValueError):
                    members.addfile(member, io.BytesIO(content))
    return file.getvalue()
