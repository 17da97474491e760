"""Settings of `stochx card`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from stochx.settings.base import WHAT, Option, Settings


@dataclass(frozen=True, kw_only=True)
class Card(Settings):
    """Show the robustness card of runs of attack or certify: the claim with all that it rests on.

    Examples:
      stochx card stochx-out/attack

      stochx card stochx-out/attack stochx-out/certify --format markdown > ROBUSTNESS.md
    """

    command: ClassVar[str] = "card"

    runs: Annotated[
        tuple[Path, ...],
        Option(WHAT, "Folders of runs, or their result.json.", metavar="RUN...", positional=True),
    ]
