"""Tables of a report: the columns of the terminal, and one of all images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stochx.reports.html.blocks import Cell, Heading, Line, Record, Run, TableBlock
from stochx.tables import view_of

T = TypeVar("T")
MOST = 2_000  # rows of a table: more would make a page slow, and nobody reads them


def result_table(run: Run, title: str = "Results", folded: bool = False) -> TableBlock:
    """Return the table that the command prints."""
    view = view_of(run.command)
    rows, columns = view.folded(run.rows)
    columns = [column for column in columns if any(column.cell(row) for row in rows)]
    headings = [Heading(" ".join(column.name.split()), column.numeric, column.note) for column in columns]
    lines = [Line([Cell(column.cell(row), column.numeric) for column in columns]) for row in rows[:MOST]]
    return TableBlock(title, headings, lines, view.legend(run.rows), max(0, len(rows) - MOST), folded)


@dataclass(frozen=True)
class Shown:
    """A column of the table of images."""

    name: str
    text: Callable[[Any], str]
    numeric: bool = False
    note: str = ""


def image_table(
    title: str,
    columns: Sequence[Shown],
    records: Sequence[T],
    tags: Callable[[T], Sequence[str]],
    group: Callable[[T], str],
) -> TableBlock:
    """Return a table with a row for each record, closed until it is asked for."""
    lines = [
        Line([Cell(column.text(record), column.numeric) for column in columns], tags(record), group(record))
        for record in records[:MOST]
    ]
    headings = [Heading(column.name, column.numeric, column.note) for column in columns]
    return TableBlock(title, headings, lines, left_out=max(0, len(records) - MOST), folded=True)


def failed_images(run: Run) -> TableBlock | None:
    """Return the table of the images that could not be used; None where all could."""
    failed: Sequence[Record] = run.document.get("failed", [])
    if not failed:
        return None
    columns = [Shown(key, lambda record, key=key: str(record[key])) for key in ("image", "error", "hint")]  # type: ignore[misc]
    return image_table("Failed images", columns, failed, lambda record: ("failed",), lambda record: "")
