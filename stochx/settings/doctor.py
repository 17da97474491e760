"""Settings of `stochx doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.settings.base import RUN, Option, Settings


@dataclass(frozen=True, kw_only=True)
class Doctor(Settings):
    """Show what stochx finds on this machine: device, speed, memory, versions, data, weights, and what is missing.

    Examples:
      stochx doctor

      stochx doctor --device cuda --json
    """

    command: ClassVar[str] = "doctor"

    device: Annotated[str, Option(RUN, "Device to measure: auto, cpu, cuda, cuda:N or mps.", free=True)] = "auto"
