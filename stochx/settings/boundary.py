"""Settings of `stochx boundary`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import METHOD, OUTPUT, WHAT, Option
from stochx.settings.choices import Plane
from stochx.settings.figures import Figures
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Batches, Network
from stochx.settings.values import Number, radius


@dataclass(frozen=True, kw_only=True)
class Boundary(Network, Batches, Figures, RunFiles):
    """Draw decision boundaries on planes through images, and measure how far networks agree.

    Examples:
      stochx boundary teacher.safetensors student.safetensors --data cifar10 --images 3,17,42 -o planes/

      stochx boundary run/checkpoints/*.safetensors --plane gradient --images 5 --draws 20
    """

    command: ClassVar[str] = "boundary"

    models: Annotated[
        tuple[str, ...],
        Option(
            WHAT,
            "Networks, as for `--model` of other commands; the others are compared with the first.",
            metavar="MODEL...",
            positional=True,
        ),
    ]
    data: Annotated[str, Option(WHAT, "Data set with the images.", family="datasets", or_path=True)] = "cifar10"
    images: Annotated[
        str | None,
        Option(
            WHAT,
            "Indices or keys of images; default: three of different classes, as far as there are, or one.",
            metavar="A,B,C",
        ),
    ] = None
    plane: Annotated[
        Plane,
        Option(METHOD, "Plane through three images, or along an image's loss gradient, or towards an attack's image."),
    ] = "images"
    resolution: Annotated[int, Option(METHOD, "Points along the plane's longer side.", minimum=2)] = 200
    eps: Annotated[Number, Option(METHOD, "Unit of gradient and attack planes, in pixel units [0, 1].")] = "8/255"
    span: Annotated[float, Option(METHOD, "Extent of these planes in either direction, in eps.")] = 4.0
    draws: Annotated[
        int,
        Option(
            METHOD, "Draws of a stochastic network's noise at a point, at most: fewer where few settle it.", minimum=1
        ),
    ] = 50
    figure: Annotated[bool, Option(OUTPUT, "Draw the planes.")] = True
    animate: Annotated[
        bool | None,
        Option(OUTPUT, "Draw a GIF over the networks; default for more than two of one architecture.", free=True),
    ] = None

    @property
    def radius(self) -> float:
        """The unit of gradient and attack planes, in pixel units."""
        return radius(self.eps, "linf")

    def check(self) -> None:
        super().check()
        if not self.models:
            raise UsageError("no network is given", "name at least one")
        twice = next((name for name in self.models if self.models.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"`{twice}` is given twice", "name each network once")
        if not self.radius * self.span > 0:
            raise UsageError(
                f"a plane of `--eps {self.eps}` and `--span {self.span:g}` is a point", "both must be above 0"
            )
