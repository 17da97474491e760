"""Settings of `stochx demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from stochx.settings.base import OUTPUT, RUN, Option, Settings


@dataclass(frozen=True, kw_only=True)
class Demo(Settings):
    """Train a small network on generated images, explain some of them, and score the maps against the truth.

    Examples:
      stochx demo

      stochx demo -o /tmp/demo --json
    """

    command: ClassVar[str] = "demo"

    output: Annotated[Path | None, Option(OUTPUT, "Folder for the files; default stochx-out/demo.", short="-o")] = None
    seed: Annotated[int, Option(RUN, "Seed of every random draw.")] = 0

    @property
    def folder(self) -> Path:
        """The folder that everything goes into."""
        return self.output or Path("stochx-out/demo")

    def recorded(self) -> dict[str, object]:
        return super().recorded() | {"output": str(self.folder)}
