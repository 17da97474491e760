"""The table of `stochx info`: facts of a model, or which commands work with which networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from stochx.support import COLUMNS, YES
from stochx.tables.view import Column, Document, Remark, Row, View, text

FEW = 4  # networks up to which each command has a line of its own, with the reason why it does not work


def _is_support(rows: Sequence[Row]) -> bool:
    return bool(rows) and "network" in rows[0]


def _columns(rows: Sequence[Row]) -> list[Column]:
    if not _is_support(rows):
        return [text("what", "name"), text("value"), text("source")]
    return [text("family", "name"), text("network"), *(text(column) for column in COLUMNS)]


def _fold(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Column]]:
    if not _is_support(rows):
        return rows, _columns(rows)
    if len(rows) > FEW:
        return rows, [text("family", "name"), *(Column(column, partial(_short, column)) for column in COLUMNS)]
    commands = [(column, what.replace("`", "")) for column, what in COLUMNS.items()]
    lines = [{**row, "command": what, "works": row[column]} for row in rows for column, what in commands]
    return lines, [text("family", "name"), text("network"), text("command"), text("works")]


def _short(column: str, row: Row) -> str:
    return YES if row[column] == YES else "no"


def _remarks(document: Document) -> list[Remark]:
    tested = document.get("tested")
    packages = ", ".join(f"{package} {version}" for package, version in (tested or {}).items())
    return [Remark("note", f"tested with {packages}, on small networks with random weights")] if tested else []


VIEW = View(_columns, remarks=_remarks, keys=("name",), fold=_fold)
