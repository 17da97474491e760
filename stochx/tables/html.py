"""A document as HTML for notebooks: its table, what failed, gates and remarks, with every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stochx.errors import printable
from stochx.tables.view import Column, Document, Row, View

MOST = 100  # lines of a table
COLOURS = {"": "inherit", "ok": "#228833", "warn": "#AA7700", "fail": "#CC3311"}


def to_html(document: Document, view: View) -> str:
    """Return the document as HTML, with at most `MOST` lines in its table."""
    if view.page is not None:
        return f"<pre>{escape(view.page(document))}</pre>"
    rows, columns = view.folded(document["results"])
    columns = [column for column in columns if not rows or any(map(column.cell, rows))]
    left = [f"{len(rows) - MOST} of {len(rows)} lines are left out"] if len(rows) > MOST else []
    notes = [f"{column.name}: {column.note}" for column in columns if column.note]
    below = "; ".join([*left, *notes, *filter(None, [view.legend(document["results"])])])
    parts = [f"<div><b>stochx {_text(document['command'])}</b></div>", _table(rows[:MOST], columns)]
    parts += [f"<div><small>{_text(below)}</small></div>"] if below else []
    return f"<div>{''.join([*parts, *_remarks(document, view)])}</div>"


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    head = "".join(_cell("th", column, column.name) for column in columns)
    body = "".join(f"<tr>{''.join(_cell('td', column, column.cell(row)) for column in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, column: Column, content: str) -> str:
    side = "right" if column.numeric else "left"
    return f'<{tag} style="text-align:{side};padding:2px 8px">{_text(content)}</{tag}>'


def _remarks(document: Document, view: View) -> list[str]:
    """Return a line for each image that failed, each gate and each remark."""
    lines = [_line("error:", failure["error"], "fail") for failure in document.get("failed", ())]
    for gate in view.gates(document):
        lines.append(_line(*(("gate missed:", gate.text, "fail") if gate.missed else ("gate kept:", gate.text, "ok"))))
    return lines + [_line(remark.label, remark.text, remark.style) for remark in view.remarks(document)]


def _line(label: str, text: str, style: str) -> str:
    return f'<div><b style="color:{COLOURS[style]}">{_text(label)}</b> {_text(text)}</div>'


def _text(content: str) -> str:
    """Return a text for HTML; line breaks stay, other control characters are shown as codes."""
    return "<br>".join(escape(printable(line)) for line in content.split("\n"))
