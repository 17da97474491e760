"""Settings of `stochx explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import METHOD, OUTPUT, Option
from stochx.settings.figures import Figures
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Images


@dataclass(frozen=True, kw_only=True)
class Explain(Images, Figures, RunFiles):
    """Draw attribution maps: the evidence in an image for its class.

    Examples:
      stochx explain img.jpg --method smoothtaylor

      stochx explain *.jpg -m ig:steps=50 -m smoothtaylor:sigma=0.5,roots=150 --model squeezenet1_1 -o maps/

    Few-shot networks are explained by `stochx fsc-explain`.
    """

    command: ClassVar[str] = "explain"

    method: Annotated[
        tuple[str, ...], Option(METHOD, "Attribution; repeat to compare.", short="-m", family="attributions")
    ] = ("smoothtaylor",)
    figure: Annotated[bool, Option(OUTPUT, "Draw a figure for every image.")] = True
    show: Annotated[bool, Option(OUTPUT, "Draw small previews on a colour terminal.", recorded=False)] = False

    def check(self) -> None:
        super().check()
        if not self.images and self.data is None:
            raise UsageError("no image is given", "name image files, or a data set with `--data`")
