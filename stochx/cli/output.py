"""Results to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from stochx.cli.table import Column, Row, fit_table
from stochx.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from stochx.runs import Document


def escape_unprintable() -> None:
    r"""Make stdout and stderr write as `\xb1` what their encoding lacks, and bytes of names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@cache
def stdout() -> Console:
    """Return the console of results. Rich is imported late: completions must not wait for it.

    Whether it is a terminal decides the format; variables that speak of colour change nothing in a pipe.
    """
    from rich.console import Console

    return Console(emoji=False, highlight=False, force_terminal=sys.stdout.isatty())


@cache
def stderr() -> Console:
    """Return the console of everything else."""
    from rich.console import Console

    return Console(stderr=True, emoji=False, highlight=False, soft_wrap=True, force_terminal=sys.stderr.isatty())


def text(name: str, key: str = "") -> Column:
    """Make a column of texts from the values under `key`, by default its name."""
    return Column(name, lambda row: str(row[key or name]))


def number(name: str, pattern: str = "{}", key: str = "", note: str = "", minor: bool = False) -> Column:
    """Make a column of numbers from the values under `key`, empty where they are None."""

    def cell(row: Row) -> str:
        return "" if row[key or name] is None else pattern.format(row[key or name])

    return Column(name, cell, numeric=True, note=note, minor=minor)


def interval(name: str, mean: str, low: str, high: str) -> Column:
    """Make a column of means with the ends of their intervals; empty where there is none."""

    def text(row: Row) -> str:
        return "" if row[mean] is None else f"{row[mean]:.4f} [{row[low]:.3f}, {row[high]:.3f}]"

    return Column(name, text, numeric=True)


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
        _print_table(rows, view.columns(rows), quiet)
    else:
        _print_table(*view.fold(rows), quiet)
    sys.stdout.flush()
    if not (as_json or quiet):
        view.remark(document)


def _print_table(rows: Sequence[Row], columns: Sequence[Column], quiet: bool) -> None:
    """Print rows as wide as the terminal, and below them what the numbers mean."""
    tables, shown = fit_table(rows, columns, stdout().width)
    for table in tables:
        _print_styled(table.heading, "bold")
        _print_styled(table.body)
    if not quiet:
        notes = "; ".join(f"{column.name}: {column.note}" for column in shown if column.note)
        hidden = ", ".join(column.name for column in columns if column.minor and column not in shown)
        for line in (notes, f"no room for {hidden}: see `--json`" if hidden else ""):
            if line:
                stdout().print(line, style="dim", markup=False)


def _print_styled(lines: Sequence[str], style: str = "") -> None:
    for line in lines:
        stdout().print(line, style=style, markup=False, soft_wrap=True)


def _print_lines(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    lines = [[c.name for c in columns], *([c.cell(row) for c in columns] for row in rows)]
    sys.stdout.write("".join("\t".join(map(printable, line)) + "\n" for line in lines))


def remark(label: str, message: str, style: str = "") -> None:
    """Print a line on stderr that begins with a label: `error: ...`, `ok  ...`; control characters become text."""
    from rich.text import Text

    stderr().print(Text.assemble((label, f"bold {style}"), " ", printable(message)))


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
