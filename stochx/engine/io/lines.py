"""JSON, TOML and JSON lines of run folders: read and checked once, so that whatever else lies there is one error."""

from __future__ import annotations

import codecs
import json
import math
import mmap
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stochx.engine.io.forms import Check
from stochx.errors import InputError, first_line, printable

DIGITS, DEPTH = 20, 64  # of an integer, and of lists in lists, that no run has
AGAIN = "the file is damaged: run the command again"
RESUMED = "leave out `--resume` to start over"
T = TypeVar("T")


def read_json(path: Path) -> Any:
    """Read JSON, where NaN and infinity are no numbers."""
    return _parse(path, _json, "JSON", AGAIN)


def read_toml(path: Path, hint: str = AGAIN) -> dict[str, Any]:
    """Read TOML; a file that does not exist holds nothing."""
    if not path.exists():
        return {}
    return _parse(path, _toml, "TOML", hint)


def read_records(path: Path, check: Check | None = None, hint: str = AGAIN, torn: bool = False) -> list[dict[str, Any]]:
    """Read the objects of a file, one a line; one that does not exist holds none.

    With `torn` the end of a line that was never finished is left out.
    """
    lines = _bytes(path).removeprefix(codecs.BOM_UTF8).split(b"\n") if path.exists() else []
    if torn:
        lines = lines[:-1]
    return [_record(path, number, line, check, hint) for number, line in enumerate(lines, 1) if line.strip()]


def cut_torn(path: Path) -> None:
    """Cut off the end of a line that was never finished, before another one is appended to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # of which it reads the end alone
            size, whole = len(content), content.rfind(b"\n") + 1
        if whole < size:
            file.truncate(whole)


def _record(path: Path, number: int, line: bytes, check: Check | None, hint: str) -> dict[str, Any]:
    """Read a line. A check bounds numbers and depth too, and is faster than to look at every number."""
    try:
        record = _json(line.decode()) if check is None else PLAIN.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"JSON in line {number}", error, hint) from None
    if not isinstance(record, dict):
        raise InputError(f"`{path}` has a line that is not an object: line {number}", hint)
    fault = None if check is None else check(record)
    if fault is not None:
        raise InputError(f"`{path}` has no valid `{printable(fault[1:])}` in line {number}", hint)
    return record


def _bytes(path: Path) -> bytes:
    if not path.is_file():  # a folder, or a pipe that nobody may ever write to
        raise InputError(f"`{path}` is not a file", "remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read `{path}`: {error.strerror}", "check the permissions of the file") from None


def _parse(path: Path, parse: Callable[[str], T], language: str, hint: str) -> T:
    try:
        return parse(_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _invalid(path, language, error, hint) from None


def _invalid(path: Path, language: str, error: Exception, hint: str) -> InputError:
    return InputError(f"`{path}` is not valid {language}: {printable(first_line(error))}", hint)


def _json(text: str) -> Any:
    return _shallow(STRICT.decode(text), text)


def _toml(text: str) -> dict[str, Any]:
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
            raise ValueError(f"it is more than {DEPTH} levels deep")
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
