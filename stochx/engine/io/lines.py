"""JSON, TOML and JSON lines of run folders, read and checked at one door: whatever else lies there is one error."""

from __future__ import annotations

import codecs
import json
import math
import mmap
import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from stochx.errors import InputError, first_line, printable, printable_json

DIGITS, DEPTH = 20, 64  # of an integer, and of lists in lists, that no run has
TOO_DEEP = f"it is more than {DEPTH} levels deep"
AGAIN = "the file is damaged: run the command again"
T = TypeVar("T")

Record = dict[str, Any]
"""A line of records.jsonl, or a row of `results`, as JSON."""


def read_json(path: Path) -> Any:
    """Read JSON, where NaN and infinity are no numbers."""
    return _parse(path, _json, "JSON", AGAIN)


def read_toml(path: Path, hint: str = AGAIN) -> dict[str, Any]:
    """Read TOML; a file that does not exist holds nothing."""
    if not path.exists():
        return {}
    return _parse(path, _toml, "TOML", hint)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file, one a line; one that does not exist holds none."""
    lines = _bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n") if path.exists() else []
    return [_record(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def as_line(record: Mapping[str, object]) -> bytes:
    """Return a record as a line; bytes of a name that are not UTF-8 become `\\udcff`, which JSON reads back."""
    return (printable_json(json.dumps(record, ensure_ascii=False)) + "\n").encode()


class Lines:
    """The finished lines of files, a record each, at places: bytes from the first file's begin; no two files adjoin.

    The end of a line that was never finished is left out. Reading raises `InputError` with the `hint` for one that is
    not of the form, a type that `msgspec` knows.
    """

    def __init__(self, files: Sequence[Path], kind: Any, hint: str) -> None:
        self._files, self._kind, self._hint = files, kind, hint
        self._decoder = msgspec.json.Decoder(kind)
        self._starts = [0, *accumulate(file.stat().st_size + 1 for file in files)]

    def __bool__(self) -> bool:
        return self._starts[-1] > len(self._files)

    def of(self, files: Sequence[Path]) -> Lines:
        """Return the lines of other files with records of this kind."""
        return Lines(files, self._kind, self._hint)

    def __iter__(self) -> Iterator[Record]:
        return (record for _, record in self.placed())

    def placed(self) -> Iterator[tuple[int, Record]]:
        """Yield every record with its place."""
        for path, place in zip(self._files, self._starts, strict=False):
            with opened(path) as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n") and not line.isspace():
                        yield place, self._decode(line, path, f"line {number}")
                    place += len(line)

    def at(self, places: Iterable[int]) -> Iterator[bytes]:
        """Yield the lines at some places; it is fast where they come in order."""
        with ExitStack() as stack:
            files = [stack.enter_context(opened(path)) for path in self._files]
            after = -1
            for place in places:
                if place != after:
                    part = bisect_right(self._starts, place) - 1
                    file = files[part]
                    file.seek(place - self._starts[part])
                line = file.readline()
                after = place + len(line)
                yield line

    def decode(self, line: bytes) -> Record:
        """Return the record of a line that `at` returned."""
        return self._decode(line, self._files[0], "a line that has changed")

    def _decode(self, line: bytes, path: Path, where: str) -> Record:
        try:
            record: Record = self._decoder.decode(line.removeprefix(codecs.BOM_UTF8))
        except msgspec.ValidationError as error:
            raise self._fault(path, where, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_slowly(line, path, where)
        return record

    def _decode_slowly(self, line: bytes, path: Path, where: str) -> Record:
        """Decode a line with half a surrogate, as names have that are not UTF-8, which `msgspec` refuses."""
        try:
            record: Record = msgspec.convert(PLAIN.decode(line.decode("utf-8-sig")), self._kind)
        except msgspec.ValidationError as error:
            raise self._fault(path, where, error) from None
        except (ValueError, RecursionError) as error:
            raise invalid(path, f"JSON in {where}", error, self._hint) from None
        return record

    def _fault(self, path: Path, where: str, error: Exception) -> InputError:
        said = str(error).replace(" - at `$.", ", at `")
        return InputError(f"`{path}` holds no record of this run in {where}: {printable(said)}", self._hint)


def cut_torn(path: Path) -> None:
    """Cut off the end of a line that was never finished, before another one is appended to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # of which it reads the end alone
            size, whole = len(content), content.rfind(b"\n") + 1
        if whole < size:
            file.truncate(whole)


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = _json(line.decode())
    except (ValueError, RecursionError) as error:
        raise invalid(path, f"JSON in line {number}", error, AGAIN) from None
    if not isinstance(record, dict):
        raise InputError(f"`{path}` has a line that is not an object: line {number}", AGAIN)
    return record


def opened(path: Path) -> BinaryIO:
    """Open a file of a run folder to read it; raises `InputError` for what is none."""
    if not path.is_file():  # a folder, or a pipe that nobody may ever write to
        raise InputError(f"`{path}` is not a file", "remove it")
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read `{path}`: {error.strerror}", "check the permissions of the file") from None


def _bytes(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


def _parse(path: Path, parse: Callable[[str], T], language: str, hint: str) -> T:
    try:
        return parse(_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise invalid(path, language, error, hint) from None


def invalid(path: Path, language: str, error: Exception, hint: str) -> InputError:
    """Return the error that a file is not what its reader reads."""
    return InputError(f"`{path}` is not valid {language}: {printable(first_line(error))}", hint)


def _json(text: str) -> Any:
    return _shallow(STRICT.decode(text), text)


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML. `tomllib` calls itself for each level, and at Python's limit anything may print a traceback."""
    nested = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    if max(nested, default=0) > DEPTH:  # brackets within texts count, of which no setting leaves so many open
        raise ValueError(TOO_DEEP)
    values = tomllib.loads(text, parse_float=_finite)
    _shallow(values, text)
    return values


def _shallow(value: T, text: str) -> T:
    """Return a value that is not nested so deeply that later code could not walk it."""
    if text.count("[") + text.count("{") > DEPTH:
        level: list[Any] = [value]
        for _ in range(DEPTH):
            level = [part for whole in level for part in _parts(whole)]
        if level:
            raise ValueError(TOO_DEEP)
    return value


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:DIGITS]} is not a number")
    return number


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


STRICT = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer, parse_float=_finite)
PLAIN = json.JSONDecoder(parse_constant=_refuse)
