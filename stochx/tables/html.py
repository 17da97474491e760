"""A document as HTML for notebooks: the command's table and its remarks, with every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stochx.errors import printable
from stochx.tables import view_of
from stochx.tables.view import Column, Document, Row

COLOURS = {"": "inherit", "ok": "#228833", "warn": "#AA7700", "fail": "#CC3311"}


def document_html(document: Document) -> str:
    """Return the table of a run without empty columns, what failed, the notes on its columns, and the remarks."""
    if not document:
        return "<div>no document: another rank has it</div>"
    view, rows = view_of(document["command"]), document["results"]
    lines, columns = view.folded(rows)
    columns = [column for column in columns if not lines or any(map(column.cell, lines))]
    notes = [f"{column.name}: {column.note}" for column in columns if column.note]
    parts = [f"<div><b>stochx {_text(document['command'])}</b></div>", _table(lines, columns)]
    parts += [_line("error:", failure["error"], "fail") for failure in document.get("failed", ())]
    parts += [f"<div><small>{_text(note)}</small></div>" for note in ("; ".join(notes), view.legend(rows)) if note]
    parts += [_line(remark.label, remark.text, remark.style) for remark in view.remarks(document)]
    return f"<div>{''.join(parts)}</div>"


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return rows as a table."""
    head = "".join(_cell("th", column, column.name) for column in columns)
    body = "".join(f"<tr>{''.join(_cell('td', column, column.cell(row)) for column in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, column: Column, content: str) -> str:
    side = "right" if column.numeric else "left"
    return f'<{tag} style="text-align:{side};padding:2px 8px">{_text(content)}</{tag}>'


def _line(label: str, text: str, style: str) -> str:
    return f'<div><b style="color:{COLOURS[style]}">{_text(label)}</b> {_text(text)}</div>'


def _text(content: str) -> str:
    """Return a text for HTML; line breaks stay, other control characters are shown as codes."""
    return "<br>".join(escape(printable(line)) for line in content.split("\n"))
