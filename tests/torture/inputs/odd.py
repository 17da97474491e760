"""Odd values, and damage to bytes and documents: what all groups of fuzzed inputs draw from."""

from __future__ import annotations

import math
import struct
from random import Random
from typing import Any

TEXTS = (
    "\x1b[31mred\x1b[0m", "\n", "a\tb", "\x00", "\ud800", "[red]x[/red]", ":smile:", "$\\frac{", "$a_b$", "%s", "{}",
    "<script>alert(1)</script>", "x" * 100_000, "", " ", "\u202e", "\r", "../../etc/passwd", "nan", "0", "-1", "\\",
    "'", '"', "é" * 300, "\x9b31m", "\x7f", "none", "sample", "batch", "bilinear", "few-shot", "a", "b",
)  # fmt: skip
WHOLE = (0, 1, -1, 2, 3, 7, 8, 16, 1000, 4096, 2**31, 2**40, 2**63, 2**64, -(2**63), 10**300)
REAL = (0.0, -0.0, 0.5, -0.5, 1e-30, 1e-320, 1e38, 3.5e38, 1e308, math.nan, math.inf, -math.inf)
SPECS = (
    "convnet:width=%s", "resnet-cifar:depth=%s", "wide-resnet:depth=%s", "wide-resnet:width=%s", "conv4:width=%s",
    "robust-cnn:first=%s", "gaussian:sigma=%s", "dropout:p=%s", "lowrank:rank=%s", "adaptive:beta=%s", "gnn:width=%s",
    "relation:hidden=%s", "cross-attention:width=%s", "matching:%s", "wca:%s", "rpf:%s", "rna:%s", "pni:%s",
)  # fmt: skip
NUMBERS = ("0", "1", "-1", "8", "1e9", "nan", "inf", "1e400", "3000000000", "9" * 30, "9" * 5000, "x", "", "20", "2.5")
NAMES = ("convnet", "resnet20", "conv4", "resnet18", "timm:vit_tiny_patch16_224", "os:system", "x.py:y", "prototypical")


def value(draw: Random, depth: int = 0) -> Any:
    """Draw a value of JSON, mostly one that nothing expects."""
    kind = draw.randrange(12 if depth < 4 else 8)
    if kind < 3:
        return draw.choice(draw.choice((TEXTS, NAMES)))
    if kind == 3:
        return draw.choice(WHOLE)
    if kind == 4:
        return draw.choice(REAL)
    if kind == 5:
        return draw.choice((None, True, False))
    if kind == 6:
        return spec(draw)
    if kind == 7:
        return deep(draw.choice((10, 500, 900)))
    if kind == 8:
        return [value(draw, depth + 1) for _ in range(draw.randrange(5))]
    if kind == 9:
        return {draw.choice(TEXTS): value(draw, depth + 1) for _ in range(draw.randrange(4))}
    if kind == 10:
        return [draw.choice((*REAL, 0.1, 0.5, True, 8))] * draw.choice((1, 2, 3, 4, 1000))
    return [f"c{number}" for number in range(draw.choice((1, 2, 3, 10, 1000, 100_000)))]


def spec(draw: Random) -> str:
    """Draw an entry with an odd number."""
    text = draw.choice(SPECS)
    return text % draw.choice(NUMBERS)


def text(draw: Random) -> str:
    """Draw an odd text."""
    return draw.choice(TEXTS)


def deep(depth: int) -> list[Any]:
    """Return a list in a list in a list."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def damaged(draw: Random, content: bytes) -> bytes:
    """Return bytes that are cut, or changed in some places: of all, of the first 600, or near the end."""
    if draw.randrange(5) == 0:
        return content[: len(content) * draw.randrange(20) // 20]
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20, 200))):
        if not made:
            break
        place = draw.randrange(draw.choice((len(made), min(len(made), 600))))
        _damage(draw, made, len(made) - 1 - place if draw.random() < 0.3 else place)
    return bytes(made)


def _damage(draw: Random, made: bytearray, place: int) -> None:
    kind = draw.randrange(6)
    if kind == 0:
        made[place] = draw.randrange(256)
    elif kind == 1:
        made[place] ^= 1 << draw.randrange(8)
    elif kind == 2:
        made[place] = draw.choice((0, 127, 128, 255))
    elif kind == 3:
        made[place : place + 4] = struct.pack(draw.choice("<>") + "I", draw.choice((0, 65535, 10**9, 2**31, 2**32 - 1)))
    elif kind == 4:
        del made[place : place + draw.choice((1, 2, 8, 100))]
    else:
        made[place:place] = bytes([draw.randrange(256)]) * draw.choice((1, 4, 100))


def changed(draw: Random, document: Any) -> Any:
    """Return a document with another value, one more, or one less, in a random place of it; it is changed itself."""
    path = draw.choice(list(_paths(document)))
    if not path:
        return value(draw)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    kind = draw.random()
    if kind < 0.2:
        del holder[path[-1]]
    elif kind < 0.3:
        holder.update(new=holder.pop(path[-1])) if isinstance(holder, dict) else holder.append(holder[path[-1]])
    else:
        holder[path[-1]] = value(draw)
    return document


def _paths(document: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    parts = document if isinstance(document, dict) else dict(enumerate(document)) if isinstance(document, list) else {}
    for key, part in parts.items():
        yield from _paths(part, (*path, key))
