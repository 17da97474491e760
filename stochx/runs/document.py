"""The JSON object of a result; docs/json.md says what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stochx import __version__
from stochx.tables import view_of_document
from stochx.tables.html import to_html

SCHEMA = 2

Document = dict[str, Any]
"""The JSON object that `--json` prints and result.json holds."""


class Results(Document):
    """The document of a run, which notebooks show as its table; empty on ranks that do not lead."""

    def _repr_html_(self) -> str:
        return to_html(self, view_of_document(self)) if self else ""


def compose(
    command: str,
    args: Mapping[str, object],
    machine: Mapping[str, object],
    rows: Sequence[Mapping[str, Any]],
    seconds: float = 0.0,
) -> Document:
    """Compose a document; settings that are None are left out."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "command": command,
        "args": {key: value for key, value in args.items() if value is not None},
        **machine,
        "results": list(rows),
        "seconds": round(seconds, 3),
    }
