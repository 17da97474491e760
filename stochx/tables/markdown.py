"""A document as Markdown for GitHub and GitLab: its table, and beside it remarks, gates and what failed.

Names from files are text: they stand in code spans, or with every sign of Markdown escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stochx.errors import printable
from stochx.tables.view import Column, Document, Row, View

SIGNS = re.compile(r"[\\`*_<>&|~$]|\](?=[(\[:])|(?<=:)//|(?<=www)\.")  # within a line; intervals are no links
NUMBERS = re.compile(r"[-+±–\d.,e%/ \[\]]*( \*)?")  # with their intervals, and a star


def to_markdown(document: Document, view: View, most: int | None = None) -> str:
    """Return the document as Markdown, with at most `most` rows in its table."""
    if view.page is not None:
        return view.page(document)
    rows, columns = view.folded(document["results"])
    columns = [column for column in columns if not rows or any(column.cell(row) for row in rows)]
    shown = rows if most is None else rows[:most]
    notes = [f"{inline(column.name)}: {inline(column.note)}" for column in columns if column.note]
    left = [f"{len(rows) - len(shown)} of {len(rows)} lines are left out"] if len(shown) < len(rows) else []
    below = [*left, *notes, *filter(None, [inline(view.legend(document["results"]))])]
    parts = [table(shown, columns), "; ".join(below), "\n".join(_remarks(document, view))]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return a table, its numbers at the right."""
    headings = ["<br>".join(map(escape, column.name.split("\n"))) for column in columns]
    rules = ["--:" if column.numeric else ":--" for column in columns]
    cells = [_cells([column.cell(row) for row in rows]) for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rules, *zip(*cells, strict=True)))


def _remarks(document: Document, view: View) -> list[str]:
    """Return the remarks as a list, with what failed and the gates."""
    lines = list[str]()
    for failure in document.get("failed", []):
        lines.append(f"- **error:** {inline(failure['error'])}" + _continued(failure["hint"]))
    for gate in view.gates(document):
        lines.append(f"- **{'gate missed' if gate.missed else 'gate kept'}:** {inline(gate.text)}")
    for remark in view.remarks(document):
        if remark.label or not lines:
            lines.append(f"- **{inline(remark.label.rstrip(':'))}:** {inline(remark.text)}")
        else:
            lines[-1] += _continued(remark.text)
    return lines


def _continued(text: str) -> str:
    return f"<br>{inline(text)}" if text else ""


def _cells(texts: Sequence[str]) -> list[str]:
    """Return the cells of a column: numbers as they are, names and what can be typed as code, sentences as text."""
    write = escape if any(" " in text for text in texts) else code
    return [text if NUMBERS.fullmatch(text) else write(text) for text in texts]


def inline(text: str) -> str:
    """Return a text in which what stands in backticks is code."""
    parts = printable(text).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return escape("`".join(parts))
    return "".join(code(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def code(text: str) -> str:
    """Return a text as code; where a span would change it, as text with its signs escaped."""
    text = printable(text)
    if not text or text != text.strip() or any(sign in text for sign in "`|\\"):
        return escape(text)
    return f"`{text}`"


def escape(text: str) -> str:
    """Return a text on one line without any sign that Markdown or HTML would read."""
    return SIGNS.sub(lambda match: "".join(f"\\{sign}" for sign in match[0]), printable(text))
