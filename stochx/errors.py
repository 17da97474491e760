"""Errors a user can cause and fix; everything else is a bug and keeps its traceback.

StochxError
├── UsageError     exit 2: an unknown name, key or value; a wrong option
├── InputError     exit 2: a file, image, model or data set that cannot be used
└── RunError       exit 1: the work itself failed (NaN, no image left, a lost rank)
    ├── WriteError   a file, or stdout, could not be written
    └── LostRankError   another process of `torchrun` ended
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar


def printable(text: object) -> str:
    r"""A text on one line: control characters and undecodable bytes are shown as `\x1b` and the like."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def storable(text: str) -> str:
    r"""Return a text that UTF-8 can write: bytes of a file name that are not UTF-8 become `\udcff` and the like."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable_json(text: str) -> str:
    r"""Return JSON that says the same, with `\u009b` and the like for what is not printable, but for line breaks."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def quoted(names: Sequence[object], most: int = 3) -> str:
    """Return names as messages hold them: in backticks, the first `most` of them."""
    return ", ".join(f"`{printable(name)}`" for name in names[:most]) + (", ..." if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reason(error: Exception) -> str:
    """Return why something failed, on one line: the system's words, the first line of the error's text, or its type."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text.splitlines()[0]) if text else type(error).__name__


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown word: the closest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{close[0]}`?" if close else "choose from: " + ", ".join(known)


class StochxError(Exception):
    """A problem the user can act on: what is wrong, and `hint`, the remedy."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(printable(message))
        self.hint = printable(hint)
        if hint:
            self.add_note(f"hint: {self.hint}")  # below the message where Python prints it


class UsageError(StochxError):
    """An unknown method name, key or value, or options that do not fit together."""


class SettingError(UsageError, ValueError):
    """A hyperparameter of an entry with a value that it cannot have."""


class InputError(StochxError):
    """A file, image, model or data set that cannot be used as it is."""


class RunError(StochxError):
    """The work was asked for correctly and still failed; it yields no result."""

    exit_code = 1


class WriteError(RunError):
    """A file that could not be written: no space, no permission, a folder that is gone."""


class LostRankError(RunError):
    """Another process of `torchrun` has ended; `said` is true where a further one tells the user."""

    def __init__(self, said: bool) -> None:
        super().__init__("another rank was lost", "what was finished is kept; `--resume` goes on from there")
        self.said = said


@contextlib.contextmanager
def during(what: str) -> Iterator[None]:
    """Put `what` before the message of a `RunError` of the block: whose numbers they were."""
    try:
        yield
    except RunError as error:
        if type(error) is not RunError:  # files and ranks have messages of their own
            raise
        raise RunError(f"{what}: {error}", error.hint) from error
