"""Settings of `stochx fsc-explain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.catalog import ATTRIBUTIONS
from stochx.errors import UsageError
from stochx.settings.base import METHOD, OUTPUT, RUN, WHAT, Option
from stochx.settings.choices import Precision
from stochx.settings.figures import Figures
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Machine, check_images


@dataclass(frozen=True, kw_only=True)
class FscExplain(Machine, Figures, RunFiles):
    """Explain a few-shot network: the evidence in a query, and in the support, for each class.

    Examples:
      stochx fsc-explain query.jpg --model run/model.safetensors --support support/

      stochx fsc-explain *.jpg --model run/model.safetensors --support support.zip -m lrp:composite=epsilon -o maps/
    """

    command: ClassVar[str] = "fsc-explain"

    images: Annotated[tuple[str, ...], Option(WHAT, "Query images.", metavar="IMAGE...", positional=True)] = ()
    model: Annotated[str, Option(WHAT, "Few-shot network, a file written by `fsc-train`.", metavar="FILE")]
    support: Annotated[str, Option(WHAT, "Class folders, or a zip of them, with a few labelled images.", metavar="DIR")]
    arch: Annotated[str | None, Option(WHAT, "Architecture of a backbone that is your own code.")] = None
    method: Annotated[
        str, Option(METHOD, "Rules of the relevance.", short="-m", family="attributions", declaring="few_shot")
    ] = "lrp"
    precision: Annotated[Precision, Option(RUN, "Floating-point precision; auto is fp32.")] = "auto"
    figure: Annotated[bool, Option(OUTPUT, "Draw a figure for every image.")] = True

    def check(self) -> None:
        super().check()
        if not ATTRIBUTIONS.declares(self.method, "few_shot"):
            methods = " or ".join(f"`{name}`" for name in ATTRIBUTIONS.declaring("few_shot"))
            raise UsageError(f"`--method {self.method}` cannot explain a few-shot network", f"use {methods}")
        if not self.images:
            raise UsageError("no image is given", "name image files")
        check_images(self.images)
