"""Images that are cut, lie about their size, or have damaged bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from torture.inputs import odd

from stochx.engine.io.images import read, to_tensor

SIZES = (0, 1, 7, 8, 65535, 30_000, 20_000, 10_001, 2**31 - 1, 2**32 - 1)
FORMS = (
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_deflate"}), ("TIFF", {"compression": "jpeg"}), ("GIF", {}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("BMP", {}), ("PPM", {}), ("AVIF", {}), ("ICO", {}), ("TGA", {}), ("JPEG2000", {}),
)  # fmt: skip
MODES = ("L", "LA", "RGBA", "P", "1", "I", "I;16", "F", "CMYK", "YCbCr", "LAB")


@cache
def files() -> Mapping[str, bytes]:
    """Return a small image in each format and mode that can be written; the name begins with the format."""
    found = {}
    values = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    image = Image.fromarray(values)
    for number, (form, options) in enumerate(FORMS):
        found[f"{form} {number}"] = _saved(image, form, options)
    for mode in MODES:
        other = Image.fromarray(values[..., 0].astype("u2") * 255) if mode == "I;16" else image.convert(mode)
        for form in ("PNG", "TIFF", "GIF", "WEBP", "BMP"):
            found[f"{form} {mode}"] = _saved(other, form, {})
    found["GIF animated"] = _saved(image, "GIF", {"save_all": True, "append_images": [image, image]})
    turned = Image.Exif()
    turned[274] = 6
    found["JPEG turned"] = _saved(image, "JPEG", {"exif": turned})
    return {name: content for name, content in found.items() if content}


def _saved(image: Image.Image, form: str, options: Mapping[str, object]) -> bytes:
    file = io.BytesIO()
    with suppress(OSError, KeyError, ValueError):  # a format that lacks the mode, or is not built in
        image.save(file, form, **options)
        return file.getvalue()
    return b""


def prepare(folder: Path) -> None:
    """Read every honest image."""
    for content in files().values():
        with suppress(Exception):
            read(io.BytesIO(content), "x")


def pictures(draw: Random, folder: Path) -> None:
    """Read an image as every command does."""
    name, kind = draw.choice(list(files())), draw.randrange(3)
    content = files()[name]
    if kind == 0:
        content = content[: len(content) * draw.randrange(20) // 20]
    else:
        content = _lying(draw, name, content) if kind == 1 else odd.damaged(draw, content)
    path = folder / f"image{draw.choice(('.png', '.jpg', '.tif', '.img'))}"
    path.write_bytes(content)
    to_tensor(read(path))


def _lying(draw: Random, name: str, content: bytes) -> bytes:
    """Return an image whose header tells another width, height or entry."""
    made, size, second, form = bytearray(content), draw.choice(SIZES), draw.randrange(2), name.partition(" ")[0]
    if form == "PNG":
        made[16 + 4 * second : 20 + 4 * second] = struct.pack(">I", size)
        made[29:33] = struct.pack(">I", zlib.crc32(bytes(made[12:29])))
    elif form == "GIF":
        made[6 + 2 * second : 8 + 2 * second] = struct.pack("<H", size & 65535)
    elif form == "BMP":
        made[18 + 4 * second : 22 + 4 * second] = struct.pack("<I", size)
    elif form == "JPEG":
        place = max(made.find(b"\xff\xc0"), made.find(b"\xff\xc2")) + 5 + 2 * second
        made[place : place + 2] = struct.pack(">H", size & 65535)
    elif form == "TIFF" and content[:2] == b"II":
        (first,) = struct.unpack("<I", content[4:8])
        (count,) = struct.unpack("<H", content[first : first + 2])
        entry = first + 2 + 12 * draw.randrange(count)
        made[entry + 8 - 4 * second : entry + 12 - 4 * second] = struct.pack("<I", size)
    elif form == "WEBP":
        place = draw.randrange(20, 34)
        made[place : place + 3] = b"\xff\xff\xff"
    else:
        return odd.damaged(draw, content)
    return bytes(made)
