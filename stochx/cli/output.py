"""Results to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from stochx.runs import Document

Row = Mapping[str, Any]


def escape_unprintable() -> None:
    r"""Make stdout and stderr write as `\xb1` what their encoding lacks, and bytes of names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@cache
def stdout() -> Console:
    """Return the console of results. Rich is imported late: completions must not wait for it."""
    from rich.console import Console

    return Console(emoji=False, highlight=False)


@cache
def stderr() -> Console:
    """Return the console of everything else."""
    from rich.console import Console

    return Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column of a result table: its heading, and the text of a row's cell."""

    name: str
    cell: Callable[[Row], str]


def text(name: str, key: str = "") -> Column:
    """Make a column of texts from the values under `key`, by default its name."""
    return Column(name, lambda row: str(row[key or name]))


def number(name: str, pattern: str = "{}", key: str = "") -> Column:
    """Make a column of numbers from the values under `key`, empty where they are None."""
    return Column(name, lambda row: "" if row[key or name] is None else pattern.format(row[key or name]))


def interval(name: str, mean: str, low: str, high: str) -> Column:
    """Make a column of means with the ends of their intervals."""
    return Column(name, lambda row: f"{row[mean]:.4f} [{row[low]:.3f}, {row[high]:.3f}]")


def _silent(document: Document) -> None:
    pass


@dataclass(frozen=True)
class View:
    """A command's table, and what it remarks on stderr beside it.

    On a terminal `fold` may put several rows into one line, which has columns of its own.
    """

    columns: Callable[[Sequence[Row]], Sequence[Column]]
    remark: Callable[[Document], None] = _silent
    fold: Callable[[Sequence[Row]], tuple[Sequence[Row], Sequence[Column]]] | None = None


def show(document: Document, view: View, as_json: bool, quiet: bool) -> None:
    """Print a run's document, and on stderr what failed and what is remarkable.

    With `as_json` stdout gets one object, on a terminal a table, else tab-separated lines under a heading.
    """
    for failure in document.get("failed", []):
        complain(failure["error"], failure["hint"])
    rows = document["results"]
    if as_json:
        unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
        sys.stdout.write(json.dumps(document, ensure_ascii=not unicode, allow_nan=False) + "\n")
    elif not stdout().is_terminal:
        _print_lines(rows, view.columns(rows))
    elif view.fold is None:
        _print_table(rows, view.columns(rows))
    else:
        _print_table(*view.fold(rows))
    sys.stdout.flush()
    if not (as_json or quiet):
        view.remark(document)


def _print_table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(Text(column.name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    stdout().print(table)


def _print_lines(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    lines = [[c.name for c in columns], *([c.cell(row) for c in columns] for row in rows)]
    sys.stdout.write("".join("\t".join(_plain(cell) for cell in line) + "\n" for line in lines))


def _plain(cell: str) -> str:
    return cell.replace("\t", " ").replace("\n", " ")


def remark(label: str, message: str, style: str = "") -> None:
    """Print a line on stderr that begins with a label: `error: ...`, `ok  ...`; the message is taken as it is."""
    from rich.text import Text

    stderr().print(Text.assemble((label, f"bold {style}"), " ", message))


def complain(message: str, hint: str = "") -> None:
    """Print `error: ...` and `hint: ...` on stderr."""
    remark("error:", message, "red")
    if hint:
        remark("hint:", hint)


class _Notes(logging.Handler):
    """Prints log records on stderr, each text once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._seen:
            self._seen.add(message)
            remark("warning:" if record.levelno >= logging.WARNING else "note:", message)


def notes(quiet: bool, verbose: bool = False) -> None:
    """Send the library's log to stderr: warnings, with `verbose` details too, with `quiet` nothing."""
    log = logging.getLogger("stochx")
    log.handlers = [] if quiet else [_Notes()]
    log.propagate = False
    log.setLevel(logging.CRITICAL if quiet else logging.INFO if verbose else logging.WARNING)
