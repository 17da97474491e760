"""Settings of `stochx compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from stochx.settings.base import RUN, WHAT, Option, Settings


@dataclass(frozen=True, kw_only=True)
class Compare(Settings):
    """Compare two runs of a command: what changed in their settings, and in each measure, paired by image.

    Examples:
      stochx compare stochx-out/attack stochx-out/attack-2

      stochx compare baseline/ stochx-out/attack --fail-on-regression 0.02
    """

    command: ClassVar[str] = "compare"

    old: Annotated[Path, Option(WHAT, "Folder of a run, or its result.json.", metavar="OLD", positional=True)]
    new: Annotated[Path, Option(WHAT, "Folder of another run of the same command.", metavar="NEW", positional=True)]
    fail_on_regression: Annotated[
        float | None,
        Option(
            RUN,
            "Exit with code 3 if a measure got worse by more than DELTA, and significantly.",
            metavar="DELTA",
            minimum=0,
        ),
    ] = None
