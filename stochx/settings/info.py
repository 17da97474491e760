"""Settings of `stochx info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.settings.base import WHAT, Option
from stochx.settings.groups import Labelled


@dataclass(frozen=True, kw_only=True)
class Info(Labelled):
    """Show what is known about a model: read from its file, recognised or guessed.

    Examples:
      stochx info resnet20.safetensors

      stochx info weights.pth --arch robust-cnn:first=2,second=2 --json

      stochx info teacher.safetensors --data photos/
    """

    command: ClassVar[str] = "info"

    model: Annotated[
        str,
        Option(
            WHAT,
            "Weights, a torchvision name, timm:NAME, hf:ORG/NAME or package.module:factory.",
            metavar="MODEL",
            positional=True,
        ),
    ]
    data: Annotated[
        str | None,
        Option(WHAT, "Show which output each class of this data set belongs to.", family="datasets", or_path=True),
    ] = None
