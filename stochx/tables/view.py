"""The view of a command: the columns of its table, and what is remarkable beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
Document = Mapping[str, Any]
"""The JSON object of a run."""
Style = Literal["", "ok", "warn", "fail"]


@dataclass(frozen=True)
class Column:
    """A column of a result table: its heading, and the text of a row's cell.

    `note` says what the numbers mean. A `minor` column is left out where a terminal has no room for it.
    """

    name: str
    cell: Callable[[Row], str]
    numeric: bool = False
    note: str = ""
    minor: bool = False


@dataclass(frozen=True)
class Remark:
    """A line beside the table: what it is about, and what it says; without a label it continues the one before."""

    label: str
    text: str
    style: Style = ""


@dataclass(frozen=True)
class Gate:
    """A bound that a run was asked to keep: the option as typed, what was measured, and whether that misses it."""

    option: str
    text: str
    missed: bool


def _nothing(document: Document) -> tuple[()]:
    return ()


def _no_legend(rows: Sequence[Row]) -> str:
    return ""


@dataclass(frozen=True)
class View:
    """A command's table, and what its document says beside it: remarks, and gates.

    The values under `keys` identify a row. For people `fold` may put several rows into one line, which has columns of
    its own; `legend` explains its signs. `page` writes another Markdown than that of the table.
    """

    columns: Callable[[Sequence[Row]], Sequence[Column]]
    remarks: Callable[[Document], Sequence[Remark]] = _nothing
    gates: Callable[[Document], Sequence[Gate]] = _nothing
    keys: tuple[str, ...] = ()
    fold: Callable[[Sequence[Row]], tuple[Sequence[Row], Sequence[Column]]] | None = None
    legend: Callable[[Sequence[Row]], str] = _no_legend
    page: Callable[[Document], str] | None = None

    def folded(self, rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Column]]:
        """Return the lines and the columns of the table for people."""
        return (rows, self.columns(rows)) if self.fold is None else self.fold(rows)

    def labels(self, rows: Sequence[Row]) -> list[str]:
        """Return a short name for each row: what identifies it, without what is the same for all."""
        keys = [key for key in self.keys if len({str(row[key]) for row in rows}) > 1] or self.keys[-1:]
        return [", ".join(filter(None, (str(row[key]) for key in keys))) for row in rows]


@dataclass(frozen=True)
class Excerpt:
    """The table of a document for people, as far as it is shown: lines, columns that say something, texts below it."""

    lines: Sequence[Row]
    columns: Sequence[Column]
    below: Sequence[str]


def excerpt(document: Document, view: View, most: int | None = None) -> Excerpt:
    """Return the table of a document, with at most `most` lines, and the notes on it."""
    lines, columns = view.folded(document["results"])
    columns = [column for column in columns if not lines or any(map(column.cell, lines))]
    shown = lines if most is None else lines[:most]
    left = [f"{len(lines) - len(shown)} of {len(lines)} lines are left out"] if len(shown) < len(lines) else []
    notes = [f"{column.name}: {column.note}" for column in columns if column.note]
    return Excerpt(shown, columns, [*left, *notes, *filter(None, [view.legend(document["results"])])])


def all_remarks(document: Document, view: View) -> list[Remark]:
    """Return what stands beside the table: what failed, with its hint, the gates, and the remarks of the view."""
    remarks = list[Remark]()
    for failure in document.get("failed", ()):
        remarks.append(Remark("error:", failure["error"], "fail"))
        if failure["hint"]:
            remarks.append(Remark("", failure["hint"]))
    for gate in view.gates(document):
        fate = Remark("gate missed:", gate.text, "fail") if gate.missed else Remark("gate kept:", gate.text, "ok")
        remarks.append(fate)
    return [*remarks, *view.remarks(document)]


def text(name: str, key: str = "") -> Column:
    """Make a column of texts from the values under `key`, by default its name."""
    return Column(name, lambda row: str(row[key or name]))


def number(name: str, pattern: str = "{}", key: str = "", note: str = "", minor: bool = False) -> Column:
    """Make a column of numbers from the values under `key`, empty where they are None."""

    def cell(row: Row) -> str:
        value = row.get(key or name)  # results of older versions may lack it
        return "" if value is None else pattern.format(value)

    return Column(name, cell, numeric=True, note=note, minor=minor)


def interval(name: str, mean: str, low: str, high: str) -> Column:
    """Make a column of means with the ends of their intervals; empty where there is none."""

    def text(row: Row) -> str:
        return "" if row[mean] is None else f"{row[mean]:.4f} [{row[low]:.3f}, {row[high]:.3f}]"

    return Column(name, text, numeric=True)
