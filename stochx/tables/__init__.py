"""Tables: what a document says as text, for terminals, pipes, Markdown and reports. Nothing here imports torch.

A file a command, with its columns and remarks in `VIEW`.
"""

from __future__ import annotations

import importlib

from stochx.settings import module_of
from stochx.tables.view import Column, Document, Gate, Remark, Row, View

__all__ = ["Column", "Document", "Gate", "Remark", "Row", "View", "view_of", "view_of_document"]


def view_of(command: str) -> View:
    """Return the view of a command, by its name as typed."""
    view: View = importlib.import_module(f"stochx.tables.{module_of(command)}").VIEW
    return view


def view_of_document(document: Document) -> View:
    """Return the view of a document: that of its command, or of an estimate of `--dry-run`."""
    return view_of("estimate" if "estimate" in document else document["command"])
