"""Texts that stand for values: radii such as 8/255, channels such as 0.485,0.456,0.406, sides, names of classes."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stochx.errors import InputError, UsageError
from stochx.input_files import exists, read_text
from stochx.settings.choices import Norm

USUAL: dict[Norm, str] = {"linf": "8/255", "l2": "0.5", "l1": "12"}  # radii

Number = str | float
"""A number, or a fraction as typed: `"8/255"`."""


def fraction(text: str) -> float:
    """Read a number, or a fraction as typed, such as `8/255`; raises `ValueError` for what is neither."""
    top, slash, bottom = text.partition("/")
    if not slash:
        return float(top)
    if not float(bottom):
        raise ValueError("a fraction of zero")
    return float(top) / float(bottom)


def radius(eps: Number, norm: Norm, option: str = "--eps ") -> float:
    """Read a radius, typed after `option`; what looks like a slip raises `UsageError` with what may have been meant."""
    text = str(eps)
    try:
        value = fraction(text)
    except ValueError:
        raise UsageError(f"`{option}{text}` is not a number", f"write `{option}{USUAL[norm]}`") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"`{option}{text}` is not a radius", "it must be a number and not negative")
    if norm == "linf" and value > 1:
        hint = f"did you mean `{option}{text}/255`?" if value < 256 and "/" not in text else "pixels lie in [0, 1]"
        raise UsageError(f"`{option}{text}` is above 1, the whole range of a pixel", hint)
    if norm != "linf" and text.partition("/")[2].strip() == "255" and value < 0.25:
        raise UsageError(
            f"`{option}{text}` is a radius for linf, not for {norm}",
            f"a usual one is `{option}{USUAL[norm]}`; write `{option}{value:.4g}` if you mean it",
        )
    return value


@dataclass(frozen=True)
class Gate:
    """The least robust accuracy that passes, and the radius where it is asked for; None: where it is attacked."""

    bound: float
    eps: float | None


def gate(text: str, norm: Norm) -> Gate:
    """Read `0.4`, or `0.4@4/255` with a radius; raises `UsageError` for what is no accuracy or no radius."""
    number, at, eps = text.partition("@")
    try:
        bound = float(number)
    except ValueError:
        raise UsageError(
            f"`--fail-under {text}` is not an accuracy", "write `--fail-under 0.4`, or `0.4@4/255` with a radius"
        ) from None
    if not math.isfinite(bound):
        raise UsageError(f"`--fail-under {text}` is not a finite number")
    if not 0 <= bound <= 1:
        size = "small" if bound < 0 else "large"
        raise UsageError(f"`--fail-under {text}` is too {size}", "use a number from 0 to 1")
    return Gate(bound, radius(eps, norm, f"--fail-under {number}@") if at else None)


def share(text: str, option: str) -> float:
    """Read `10%` as 0.1; raises `UsageError` for anything else, and for shares that are not above 0 and at most 1."""
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UsageError(
            f"`{option} {text}` is neither a number nor a share", f"write `{option} 100` or `{option} 10%`"
        )
    if not 0 < value <= 1:
        raise UsageError(f"`{option} {text}` is not a share", "use more than 0% and at most 100%")
    return value


def channels(text: str | None, option: str) -> tuple[float, ...] | None:
    """Read `0.5,0.5,0.5`, a number for each channel; one number stands for all channels."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"`{option} {text}` is not a number for each channel", f"write `{option} 0.485,0.456,0.406`"
        ) from None


MAX_SIDE = 4096  # pixels
IMAGENET = 1000  # classes

Size = int | tuple[int, int]
"""The side of a square, or (height, width), in pixels."""


def sizes(text: str | None) -> tuple[Size, Size] | None:
    """Read `240`, the side of the input in pixels, or `384x128`, its height and width.

    Behind a slash stands the size of the image that it is cropped from: `240/255`.
    """
    if text is None:
        return None
    crop, _, resize = text.partition("/")
    try:
        small, large = _sides(crop), _sides(resize or crop)
    except ValueError:
        small = large = (0, 0)
    if not all(8 <= less <= more <= MAX_SIDE for less, more in zip(small, large, strict=True)):
        raise UsageError(
            f"`--size {text}` is not a size in pixels",
            "write `--size 224`, `--size 224/256` for a crop of 256 pixels, or `--size 384x128` for height x width",
        )
    return _square_as_side(small), _square_as_side(large)


def _sides(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    return int(height), int(width if cross else height)


def _square_as_side(sides: tuple[int, int]) -> Size:
    return sides[0] if sides[0] == sides[1] else sides


def class_names(text: str | None) -> tuple[str, ...] | None:
    """Read `ant,bee,cat`, or a file: text with a name in each line; JSON, a list or a mapping of indices to names."""
    if text is None:
        return None
    file = Path(text).expanduser()
    typed = "," in text and not exists(file)
    names = [name.strip() for name in text.split(",")] if typed else _names_in(file)
    if not names or not all(names):
        raise UsageError(f"`--classes {text}` has empty names", "write `--classes ant,bee,cat`, or a file of names")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled and len(names) != IMAGENET:  # which has two cranes and two maillots
        raise UsageError(f"`--classes {text}` names `{doubled[0]}` twice", "give each class a name of its own")
    return tuple(names)


def _names_in(file: Path) -> list[str]:
    text = read_text(file, "write `--classes ant,bee,cat`, or a text file with a name in each line")
    if file.suffix != ".json":
        lines = [line.strip() for line in text.splitlines()]
        return lines[: max((i + 1 for i, line in enumerate(lines) if line), default=0)]
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content = [content[str(i)] for i in range(len(content))]
        names = [entry[-1] if isinstance(entry, list) else entry for entry in content]  # ["n01440764", "tench"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        names = [None]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"`{file}` holds no names of classes", 'use ["ant", "bee"] or {"0": "ant", "1": "bee"}')
    return names
