"""Results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


SCHEMA = 1


@cache
def stdout() -> Console:
    """Where results go. Rich is imported late: completions must not wait for it."""
    from rich.console import Console

    return Console()


@cache
def stderr() -> Console:
    """Where everything else goes."""
    from rich.console import Console

    return Console(stderr=True)


@dataclass(frozen=True)
class Column:
    """A column of a result table: its heading, and the text of a row's cell."""

    name: str
    cell: Callable[[Mapping[str, Any]], str]


def number(key: str, pattern: str) -> Callable[[Mapping[str, Any]], str]:
    """A cell with the number under `key`, empty where it is None."""
    return lambda row: "" if row[key] is None else pattern.format(row[key])


def result(
    command: str,
    args: Mapping[str, object],
    machine: Mapping[str, object],
    rows: Sequence[Mapping[str, Any]],
    seconds: float,
) -> dict[str, object]:
    """The one object of `--json` and `result.json`; docs/json.md says what it means."""
    from stochx import __version__

    return {
        "schema": SCHEMA,
        "version": __version__,
        "command": command,
        "args": {k: v for k, v in args.items() if v is not None},
        **machine,
        "results": list(rows),
        "seconds": round(seconds, 3),
    }


def show(
    document: Mapping[str, object], rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], as_json: bool
) -> None:
    """Print the document with `--json`, a table on a terminal, else tab-separated lines under a heading."""
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
    elif stdout().is_terminal:
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column.name, overflow="fold")
        for row in rows:
            table.add_row(*(escape(column.cell(row)) for column in columns))
        stdout().print(table)
    else:
        lines = [[c.name for c in columns], *([c.cell(row) for c in columns] for row in rows)]
        sys.stdout.write("".join("\t".join(_plain(cell) for cell in line) + "\n" for line in lines))
    sys.stdout.flush()


def escape(text: str) -> str:
    """`text` without rich's markup meaning."""
    return text.replace("[", r"\[")


def _plain(cell: str) -> str:
    return cell.replace("\t", " ").replace("\n", " ")


def complain(message: str, hint: str = "") -> None:
    """`error: ...` and `hint: ...` on stderr."""
    stderr().print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    if hint:
        stderr().print(f"[bold]hint:[/] {escape(hint)}", soft_wrap=True, highlight=False)


def miss(what: str) -> None:
    """`gate missed: ...` on stderr: a finding, no error."""
    stderr().print(f"[bold yellow]gate missed:[/] {escape(what)}", soft_wrap=True, highlight=False)


class _Notes(logging.Handler):
    """Log records as lines on stderr, each text once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._seen:
            self._seen.add(text)
            level = "warning" if record.levelno >= logging.WARNING else "note"
            stderr().print(f"[bold]{level}:[/] {escape(text)}", soft_wrap=True, highlight=False)


def notes(quiet: bool, verbose: bool = False) -> None:
    """Send the library's log to stderr: warnings, with `verbose` details too, with `quiet` nothing."""
    log = logging.getLogger("stochx")
    log.handlers = [] if quiet else [_Notes()]
    log.propagate = False
    log.setLevel(logging.CRITICAL if quiet else logging.INFO if verbose else logging.WARNING)


@contextlib.contextmanager
def progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal's stderr; yields the function that moves it on."""
    if quiet or not stderr().is_terminal or total == 0:
        yield lambda steps: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr(),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)
