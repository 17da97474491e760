"""Settings of `stochx demo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.settings.base import RUN, Option
from stochx.settings.folders import Resumable


@dataclass(frozen=True, kw_only=True)
class Demo(Resumable):
    """Show what stochx does, step by step, on generated images: train, distill, attack, explain, score, few-shot.

    Examples:
      stochx demo

      stochx demo -o /tmp/demo --json
    """

    command: ClassVar[str] = "demo"

    seed: Annotated[int, Option(RUN, "Seed of every random draw.")] = 0
