"""Results to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from stochx.errors import printable
from stochx.tables.layout import fit_table
from stochx.tables.view import Column, Document, Row, Style, View

if TYPE_CHECKING:
    from rich.console import Console


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


COLOURS: dict[Style, str] = {"": "", "ok": "green", "warn": "yellow", "fail": "red"}


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
    else:
        _print_table(rows, view, quiet)
    sys.stdout.flush()
    if not (as_json or quiet):
        for said in view.remarks(document):
            remark(f"{said.label:4}", said.text, COLOURS[said.style])


def _print_table(rows: Sequence[Row], view: View, quiet: bool) -> None:
    """Print rows as wide as the terminal, and below them what the numbers mean."""
    lines, columns = view.folded(rows)
    tables, shown = fit_table(lines, columns, stdout().width)
    for table in tables:
        _print_styled(table.heading, "bold")
        _print_styled(table.body)
    if not quiet:
        notes = "; ".join(f"{column.name}: {column.note}" for column in shown if column.note)
        hidden = ", ".join(column.name for column in columns if column.minor and column not in shown)
        for line in (notes, f"no room for {hidden}: see `--json`" if hidden else "", view.legend(rows)):
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
