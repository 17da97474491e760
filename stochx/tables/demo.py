"""The table of `stochx demo`: the scores, and where the figures are."""

from __future__ import annotations

from dataclasses import replace

from stochx.tables import score
from stochx.tables.view import Document, Remark


def _remarks(document: Document) -> list[Remark]:
    folder = document["args"]["output"]
    return [Remark("figures:", f"{folder}/explain/*.png, {folder}/score/*.png")]


VIEW = replace(score.VIEW, remarks=_remarks)
