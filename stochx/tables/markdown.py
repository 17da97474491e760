"""A document as Markdown for GitHub and GitLab: its table, and beside it remarks, gates and what failed.

Names from files are text: they stand in code spans, or with every sign of Markdown escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stochx.errors import printable
from stochx.tables.view import Column, Document, Remark, Row, View, all_remarks, excerpt

SIGNS = re.compile(r"[\\`*_<>&|~$]|\](?=[(\[:])|(?<=:)//|(?<=www)\.")  # within a line; intervals are no links
SITES = re.compile(r"(:[\w+-]+:|[\w.+-]*@\w[\w.-]*|(?<!\w)#\w+)")  # emoji, mentions, issues: read beside Markdown
NUMBERS = re.compile(r"[-+±–\d.,e%/ \[\]]*( \*)?")  # with their intervals, and a star


def to_markdown(document: Document, view: View, most: int | None = None) -> str:
    """Return the document as Markdown, with at most `most` rows in its table."""
    if view.page is not None:
        return view.page(document)
    part = excerpt(document, view, most)
    below = "; ".join(map(inline, part.below))
    parts = [table(part.lines, part.columns), below, "\n".join(_remarks(all_remarks(document, view)))]
    return "\n\n".join(text for text in parts if text) + "\n"


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return a table, its numbers at the right."""
    headings = ["<br>".join(map(escape, column.name.split("\n"))) for column in columns]
    rules = ["--:" if column.numeric else ":--" for column in columns]
    cells = [_cells([column.cell(row) for row in rows]) for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rules, *zip(*cells, strict=True)))


def _remarks(remarks: Sequence[Remark]) -> list[str]:
    """Return remarks as a list; one without a label continues the line before."""
    lines = list[str]()
    for remark in remarks:
        if remark.label or not lines:
            lines.append(f"- **{inline(remark.label.rstrip(':'))}:** {inline(remark.text)}")
        else:
            lines[-1] += f"<br>{inline(remark.text)}"
    return lines


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
    """Return a text on one line without any sign that Markdown or HTML would read; what sites would is code."""
    parts = SITES.split(printable(text))
    return "".join(f"`{part}`" if place % 2 else _escape_signs(part) for place, part in enumerate(parts))


def _escape_signs(text: str) -> str:
    return SIGNS.sub(lambda match: "".join(f"\\{sign}" for sign in match[0]), text)
