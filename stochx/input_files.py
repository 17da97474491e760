"""The door of files that users name: regular files alone, and texts of a bounded size."""

from __future__ import annotations

import errno
import shlex
import stat
from pathlib import Path
from typing import BinaryIO

from stochx.errors import InputError, printable, reason

MOST = 2**24  # bytes of a text; what it says takes up to sixty times as many


def can_be_path(text: str | Path) -> bool:
    """Return false for a text that no file can have as its path: it is too long, or holds a null."""
    try:
        Path(text).lstat()
    except ValueError:
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def exists(text: str | Path) -> bool:
    """Return true for the path of a file or folder; false for any other text, however long."""
    return can_be_path(text) and Path(text).exists()


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises `InputError` for one that is absent, a directory or not readable."""
    name = printable(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            hint = f"use its images with `--data {shlex.quote(name)}`"
            raise InputError(f"`{name}` is a directory, not a file", hint)
        if not stat.S_ISREG(mode):  # a pipe would block, and a device may never end
            raise InputError(f"`{name}` is not a regular file", "save it to a file first")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InputError(f"`{name}` is a link to a file that does not exist", "mend or remove the link") from None
        raise InputError(f"no such file: `{name}`", "check the path") from None
    except PermissionError:
        raise InputError(f"`{name}` cannot be read: permission denied", "check its permissions") from None
    except (OSError, ValueError) as error:
        raise InputError(f"`{name}` cannot be opened: {reason(error)}", "check the path") from None


def read_text(path: Path, hint: str) -> str:
    """Return the text of a file in UTF-8, without a byte-order mark.

    Raises `InputError`, with `hint`, for what is not such a text, and for one of more than 16 MiB.
    """
    try:
        with open_file(path) as file:
            content = file.read(MOST + 1)
    except InputError as error:
        raise InputError(str(error), hint) from None
    if len(content) > MOST:
        raise InputError(f"`{path}` holds more than {MOST // 2**20} MiB of text", hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"`{path}` is not UTF-8", hint) from None
