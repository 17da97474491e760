"""Results to stdout, everything else to stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from stochx.cli.streams import Stderr, Stdout, escaping
from stochx.errors import printable, printable_json
from stochx.settings.choices import Format
from stochx.tables.junit import to_junit
from stochx.tables.layout import fit_table
from stochx.tables.markdown import to_markdown
from stochx.tables.view import Document, Row, Style, View

if TYPE_CHECKING:
    from rich.console import Console


def prepare_streams() -> None:
    r"""Make stdout and stderr write as `\xb1` what their encoding lacks, and their failures what they are to a run."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = escaping(sys.stdout, Stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = escaping(sys.stderr, Stderr)
    sys.stderr = sys.stderr or io.StringIO()  # closed


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


NAMED = 20  # failures that are named one by one
COLOURS: dict[Style, str] = {"": "", "ok": "green", "warn": "yellow", "fail": "red"}


def show(document: Document, view: View, form: Format | None, quiet: bool) -> None:
    """Print a run's document, and on stderr what failed and what is remarkable, which some formats hold themselves.

    By default a terminal gets a table, a pipe tab-separated lines under a heading.
    """
    failed = document.get("failed", [])
    for failure in failed[:NAMED]:
        complain(failure["error"], failure["hint"])
    if len(failed) > NAMED:
        complain(f"{len(failed)} items failed in all", "`--json` names each one")
    form = form or ("table" if stdout().is_terminal else "tsv")
    if form == "table":
        _print_table(document["results"], view, quiet)
    else:
        sys.stdout.write(WRITERS[form](document, view))
    sys.stdout.flush()
    if form in ("table", "tsv") and not quiet:
        for said in view.remarks(document):
            remark(f"{said.label:4}", said.text, COLOURS[said.style])


def _to_json(document: Document, view: View) -> str:
    unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    return printable_json(json.dumps(document, ensure_ascii=not unicode, allow_nan=False)) + "\n"


def _to_tsv(document: Document, view: View) -> str:
    rows, columns = document["results"], view.columns(document["results"])
    lines = [[c.name for c in columns], *([c.cell(row) for c in columns] for row in rows)]
    return "".join("\t".join(map(printable, line)) + "\n" for line in lines)


WRITERS: dict[Format, Callable[[Document, View], str]] = {
    "markdown": to_markdown,
    "json": _to_json,
    "tsv": _to_tsv,
    "junit": to_junit,
}


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


def remark(label: str, message: str, style: str = "") -> None:
    """Print a line on stderr that begins with a label: `error: ...`, `ok  ...`; control characters become text."""
    try:
        from rich.text import Text

        stderr().print(Text.assemble((label, f"bold {style}"), " ", printable(message)))
    except MemoryError:  # a plain line takes next to none
        os.write(2, f"{label} {printable(message)}\n".encode())


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
    """Send warnings to stderr, other libraries' too, and with `verbose` details of our own; with `quiet` nothing."""
    log, handler = logging.getLogger("stochx"), logging.NullHandler() if quiet else _Notes()
    log.handlers, logging.lastResort = [handler], handler
    log.propagate = False
    log.setLevel(logging.CRITICAL if quiet else logging.INFO if verbose else logging.WARNING)

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        log.warning("%s", str(message).partition("\n")[0])

    warnings.showwarning = show_warning
