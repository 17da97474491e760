"""The header of a weights file: JSON that suffices to rebuild the network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from stochx.engine.io.images import Resampling, height_and_width, size_text
from stochx.engine.network.classifier import Noise
from stochx.errors import InputError
from stochx.settings.values import Size

T = TypeVar("T")

Features = Literal["maps", "vectors"]

VERSION = 1
MAX_SIDE = 4096  # pixels; loading runs the network once on an image of this size
MAX_CHANNELS = 10_000  # of images
MAX_WAY = 10_000
MAX_VALUE = 1e6  # largest mean or standard deviation of pixels in [0, 1]


@dataclass(frozen=True)
class ClassifierHeader:
    """Description of a classifier; an empty field or zero means that the file lacks the line."""

    arch: str = ""
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: Size = 0
    crop: Size = 0
    resampling: Resampling = "bilinear"
    noise: Noise = "none"
    noises: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FewShotHeader:
    """Description of a few-shot network: its backbone, its head and the facts of its training."""

    KIND: ClassVar = "few-shot"

    arch: str
    head: str
    way: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Size
    crop: Size
    resampling: Resampling
    facts: Mapping[str, Any]
    features: Features | Literal["either"] = "either"  # what older files lack


Header = ClassifierHeader | FewShotHeader


def serialise(header: Header) -> str:
    """Return the header as JSON."""
    kind = {"kind": FewShotHeader.KIND} if isinstance(header, FewShotHeader) else {}
    text = json.dumps({"version": VERSION, **kind, **asdict(header)}, ensure_ascii=False)
    return SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):04x}", text)


def parse(text: str, path: Path) -> Header:
    """Return the header that the JSON `text` in the file `path` describes.

    Raises `InputError`, which names the field, for a missing field of a few-shot network and for any wrong value.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(f"the `stochx` header of `{path}` is damaged", HINT)
    reader = _Reader(values, path)
    reader.choice("version", (VERSION,), VERSION)
    if reader.choice("kind", ("", FewShotHeader.KIND), "") == FewShotHeader.KIND:
        return _fewshot(reader)
    return _classifier(reader)


def _classifier(reader: _Reader) -> ClassifierHeader:
    crop = reader.size("crop", 1, 0)
    return ClassifierHeader(
        arch=reader.text("arch", ""),
        classes=reader.texts("classes", ()),
        mean=reader.numbers("mean", ()),
        std=reader.numbers("std", (), positive=True),
        resize=reader.size("resize", crop, 0),
        crop=crop,
        resampling=reader.choice("resampling", get_args(Resampling), "bilinear"),
        noise=reader.choice("noise", get_args(Noise), "none"),
        noises=reader.text("noises", ""),
        origin=reader.mapping("origin", _is_text, "text", {}),
    )


def _fewshot(reader: _Reader) -> FewShotHeader:
    crop = reader.size("crop", 1)
    facts = reader.mapping("facts", _is_encodable, "values")
    _Reader(facts, reader.path).mapping("classes", _is_texts, "lists of text", {})
    return FewShotHeader(
        arch=reader.text("arch"),
        head=reader.text("head"),
        way=reader.integer("way", 2, MAX_WAY),
        mean=reader.numbers("mean"),
        std=reader.numbers("std", positive=True),
        resize=reader.size("resize", crop),
        crop=crop,
        resampling=reader.choice("resampling", get_args(Resampling)),
        facts=facts,
        features=reader.choice("features", (*get_args(Features), "either"), "either"),
    )


SURROGATE = re.compile("[\ud800-\udfff]")  # a byte of a file name that is not UTF-8
HINT = "copy or download the file again"


@dataclass(frozen=True)
class _Reader:
    """Typed access to the fields of a header; a field without a default is required."""

    values: Mapping[str, Any]
    path: Path

    def text(self, name: str, default: str | None = None) -> str:
        value: str = self._checked(name, _is_text, "text", default)
        return value

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        return tuple(self._checked(name, _is_texts, "a list of text", default))

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        def valid(value: object) -> bool:
            return type(value) is int and low <= value <= high

        value: int = self._checked(name, valid, f"an integer from {low} to {high}", default)
        return value

    def size(self, name: str, least: Size, default: int | None = None) -> Size:
        """Return the side of a square, or (height, width), of at least `least` pixels."""
        low = height_and_width(least)

        def valid(value: object) -> bool:
            sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
            return all(type(side) is int and max(1, a) <= side <= MAX_SIDE for a, side in zip(low, sides, strict=True))

        kind = f"an integer from {low[0]} to {MAX_SIDE}" if isinstance(least, int) else f"at least {size_text(least)}"
        value: Any = self._checked(name, valid, f"{kind}, or two", default)
        return (value[0], value[1]) if isinstance(value, list) else int(value)

    def numbers(
        self, name: str, default: tuple[float, ...] | None = None, *, positive: bool = False
    ) -> tuple[float, ...]:
        """Return one number for all channels, or one for each."""
        low = 0.0 if positive else -MAX_VALUE

        def valid(value: object) -> bool:
            return isinstance(value, list) and 0 < len(value) <= MAX_CHANNELS and all(map(in_range, value))

        def in_range(value: object) -> bool:
            return isinstance(value, int | float) and low < value < MAX_VALUE  # also false for NaN

        kind = "positive numbers" if positive else "numbers"
        return tuple(map(float, self._checked(name, valid, f"a list of {kind}", default)))

    def choice(self, name: str, choices: tuple[T, ...], default: T | None = None) -> T:
        values = ", ".join(map(str, choices))
        value: T = self._checked(name, lambda value: value in choices, f"one of: {values}", default)
        return value

    def mapping(
        self, name: str, valid: Callable[[object], bool], kind: str, default: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        def all_valid(value: object) -> bool:
            return isinstance(value, dict) and all(_is_text(key) and valid(entry) for key, entry in value.items())

        return dict(self._checked(name, all_valid, f"a mapping of names to {kind}", default))

    def _checked(self, name: str, valid: Callable[[object], bool], expected: str, default: object) -> Any:
        if name not in self.values:
            if default is None:
                raise InputError(f"the `stochx` header of `{self.path}` lacks `{name}`", HINT)
            return default
        if not valid(self.values[name]):
            raise InputError(f"the `stochx` header of `{self.path}` is damaged: `{name}` is not {expected}", HINT)
        return self.values[name]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and _is_encodable(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_encodable(value: object) -> bool:
    """Return true if `value` can be written as UTF-8: it holds no lone surrogate."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
