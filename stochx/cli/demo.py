"""The table of `stochx demo`: the scores, and where the figures are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stochx.cli import score
from stochx.cli.output import remark

if TYPE_CHECKING:
    from stochx.runs import Document


def _remark(document: Document) -> None:
    score.VIEW.remark(document)
    folder = document["args"]["output"]
    remark("figures:", f"{folder}/explain/*.png, {folder}/score/*.png")


VIEW = replace(score.VIEW, remark=_remark)
