"""Files that are written whole or not at all; whatever keeps them from it is one error."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stochx.errors import WriteError, printable_json
from stochx.interrupts import held, released

UNFINISHED = ".stochx-"  # begins the names of folders in which files are being written


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in a temporary folder beside `path`; at the end it is moved to `path`.

    It has the same suffix and another name, lest what a killed process leaves there is taken for the file of a run.
    Raises `WriteError` for any failure of the system. Like every other error it leaves an older file as it was.
    """
    with writing(path), held():
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=path.parent, prefix=UNFINISHED)
        try:
            with released():
                temporary = Path(folder, f"unfinished{path.suffix}")
                yield temporary
                temporary.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep_unfinished(folder: Path, depth: int) -> None:
    """Remove what processes that were killed were writing in a folder, and `depth` folders deep within it."""
    for level in range(depth + 1):
        for left in folder.glob("*/" * level + f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a failure of the system in the block the error that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        hint = "free some space, or choose another folder with `--output`"
        raise WriteError(f"cannot write `{path}`: {error.strerror or error}", hint) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; bytes of a name that are not UTF-8 become `\\udcff`, which JSON reads back."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: object) -> None:
    """Write a value as a JSON file for people and programs atomically."""
    write_text(path, printable_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def append_bytes(path: Path, rest: bytes) -> None:
    """Append to a file; all of it is on disk when this returns, and nothing if it raises `WriteError`."""
    with writing(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise
