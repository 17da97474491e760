"""Settings of `stochx train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import METHOD, WHAT, Option
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Description
from stochx.settings.training import Epochs


@dataclass(frozen=True, kw_only=True)
class Train(Description, Epochs, RunFiles):
    """Train a classifier, plainly or adversarially: a teacher, or a network to explain.

    Examples:
      stochx train --data cifar10 --arch resnet20 --epochs 30 -o teacher/

      stochx train --data cifar10 --arch resnet20 --adversarial pgd:steps=7 --recipe trades -o at/
    """

    command: ClassVar[str] = "train"

    data: Annotated[str, Option(WHAT, "Data set to train on.", family="datasets", or_path=True)] = "shapes"
    arch: Annotated[
        str | None,
        Option(
            WHAT,
            "Architecture, also a torchvision name, timm:NAME or package.module:factory; default: resnet20.",
            family="models",
            or_other=True,
        ),
    ] = None
    init: Annotated[str | None, Option(WHAT, "Start from these weights instead of random ones.", metavar="MODEL")] = (
        None
    )
    smoothing: Annotated[
        float, Option(METHOD, "Label smoothing: share of the label that all classes get.", minimum=0, maximum=0.99)
    ] = 0.0

    @property
    def pretrained(self) -> bool:
        return self.init is not None

    def check(self) -> None:
        super().check()
        for key in ("mean", "std", "size", "classes", "ema"):
            if getattr(self, key) not in (None, False) and self.init is None:
                raise UsageError(f"`--{key}` describes the network of `--init`", "add `--init MODEL`, or leave it out")

    def recorded(self) -> dict[str, object]:
        return super().recorded() | {"arch": self.arch or (None if self.init else "resnet20")}
