"""Settings of `stochx demo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.settings.base import RUN, Option
from stochx.settings.folders import Output


@dataclass(frozen=True, kw_only=True)
class Demo(Output):
    """Train a small network on generated images, explain some of them, and score the maps against the truth.

    Examples:
      stochx demo

      stochx demo -o /tmp/demo --json
    """

    command: ClassVar[str] = "demo"

    seed: Annotated[int, Option(RUN, "Seed of every random draw.")] = 0
