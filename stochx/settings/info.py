"""Settings of `stochx info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import WHAT, Option
from stochx.settings.groups import Labelled


@dataclass(frozen=True, kw_only=True)
class Info(Labelled):
    """Show what is known about a model: read from its file, recognised or guessed; or which commands work with it.

    Examples:
      stochx info resnet20.safetensors

      stochx info weights.pth --arch robust-cnn:first=2,second=2 --json

      stochx info teacher.safetensors --data photos/

      stochx info --support timm:vit_small_patch14_dinov2
    """

    command: ClassVar[str] = "info"

    model: Annotated[
        str | None,
        Option(
            WHAT,
            "Weights, a torchvision name, timm:NAME, hf:ORG/NAME or package.module:factory.",
            metavar="[MODEL]",
            positional=True,
        ),
    ] = None
    data: Annotated[
        str | None,
        Option(WHAT, "Show which output each class of this data set belongs to.", family="datasets", or_path=True),
    ] = None
    support: Annotated[
        bool,
        Option(WHAT, "Show which commands work with which networks, all or those like MODEL, which may be a family."),
    ] = False

    def check(self) -> None:
        super().check()
        if self.model is None and not self.support:
            raise UsageError("no model is named", "write `stochx info MODEL`, or `stochx info --support`")
        if self.support and self.data is not None:
            raise UsageError("`--support` and `--data` do not go together", "leave out one of them")
