"""A document as HTML for notebooks: its table, what failed, gates and remarks, with every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stochx.errors import printable
from stochx.tables.view import Column, Document, Remark, Row, View, all_remarks, excerpt

MOST = 100  # lines of a table
COLOURS = {"": "inherit", "ok": "#228833", "warn": "#AA7700", "fail": "#CC3311"}


def to_html(document: Document, view: View) -> str:
    """Return the document as HTML, with at most `MOST` lines in its table."""
    if view.page is not None:
        return f"<pre>{escape(view.page(document))}</pre>"
    part = excerpt(document, view, MOST)
    parts = [f"<div><b>stochx {_text(document['command'])}</b></div>", _table(part.lines, part.columns)]
    parts += [f"<div><small>{_text('; '.join(part.below))}</small></div>"] if part.below else []
    return f"<div>{''.join([*parts, *map(_line, all_remarks(document, view))])}</div>"


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    head = "".join(_cell("th", column, column.name) for column in columns)
    body = "".join(f"<tr>{''.join(_cell('td', column, column.cell(row)) for column in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, column: Column, content: str) -> str:
    side = "right" if column.numeric else "left"
    return f'<{tag} style="text-align:{side};padding:2px 8px">{_text(content)}</{tag}>'


def _line(remark: Remark) -> str:
    return f'<div><b style="color:{COLOURS[remark.style]}">{_text(remark.label)}</b> {_text(remark.text)}</div>'


def _text(content: str) -> str:
    """Return a text for HTML; line breaks stay, other control characters are shown as codes."""
    return "<br>".join(escape(printable(line)) for line in content.split("\n"))
