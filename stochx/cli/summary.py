"""The summary of a job in GitHub Actions: every command appends its document as Markdown, once."""

from __future__ import annotations

import os
from pathlib import Path

from stochx.cli import output
from stochx.settings.argv import recorded_line
from stochx.tables import Document, View
from stochx.tables.markdown import code, to_markdown

VARIABLE = "GITHUB_STEP_SUMMARY"
ROOM = 1024 * 1024  # bytes of a step's summary: of a longer one GitHub shows nothing
MOST = 500  # lines of a table


def append_summary(document: Document, view: View) -> None:
    """Append a document to the summary, where there is one; a summary that cannot be written is a warning."""
    file = os.environ.get(VARIABLE)
    if not file:
        return
    try:
        room = ROOM - (Path(file).stat().st_size if Path(file).exists() else 0)
        text = _fitting(document, view, room)
        with Path(file).open("ab") as summary:
            summary.write(text)
    except OSError as error:
        output.remark("warning:", f"cannot write the summary `{file}`: {error.strerror}")


def _fitting(document: Document, view: View, room: int) -> bytes:
    """Return as much of the document as there is room for, at worst nothing."""
    title = f"### stochx {document['command']}\n\n{code(recorded_line(document['command'], document['args']))}\n\n"
    most = MOST
    while len(text := (title + to_markdown(document, view, most) + "\n").encode(errors="backslashreplace")) > room:
        if not most:
            return b""
        most //= 2
    return text
