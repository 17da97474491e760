"""The table of `stochx doctor`, and what to do about what is missing."""

from __future__ import annotations

from stochx.tables.view import Column, Document, Remark, Row, Style, View, text

STYLES: dict[str, Style] = {"missing": "warn", "broken": "fail"}


def _value(row: Row) -> str:
    if row["value"] is None:
        return "not supported"
    return f"{row['value']} {row['unit']}".rstrip()


def _remarks(document: Document) -> list[Remark]:
    """Return a line for each thing that is missing or broken, with its remedy."""
    return [
        Remark(f"{row['state']}:", f"{row['name']}: {row['hint']}", STYLES[row["state"]])
        for row in document["results"]
        if row["hint"]
    ]


VIEW = View(
    lambda rows: [
        text("topic"),
        text("what", "name"),
        Column("value", _value),
        Column("state", lambda row: "" if row["state"] == "ok" else str(row["state"])),
    ],
    remarks=_remarks,
)
