"""Settings of `stochx distill`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.settings.base import METHOD, RUN, WHAT, Option
from stochx.settings.choices import Init, Precision
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Description
from stochx.settings.training import Epochs


@dataclass(frozen=True, kw_only=True)
class Distill(Description, Epochs, RunFiles):
    """Distill a trained network into a stochastic student: its weights, with noise in its layers, trained further.

    Examples:
      stochx distill --teacher resnet.pt

      stochx distill --teacher resnet.safetensors --noise pni:granularity=channel --kd tau=4,weight=0.9 -o student/
    """

    command: ClassVar[str] = "distill"

    teacher: Annotated[
        str,
        Option(WHAT, "Trained network: weights, a torchvision name, timm:NAME, hf:ORG/NAME or package.module:factory."),
    ]
    data: Annotated[str, Option(WHAT, "Data set that the teacher was trained on.", family="datasets", or_path=True)] = (
        "cifar10"
    )
    teacher_arch: Annotated[str | None, Option(WHAT, "Architecture of bare weights of the teacher.")] = None
    noise: Annotated[str, Option(METHOD, "Noise in the student's layers.", family="noises", or_none=True)] = "adaptive"
    init: Annotated[Init, Option(METHOD, "Initial weights of the student.")] = "teacher"
    arch: Annotated[
        str | None,
        Option(
            METHOD,
            "Another architecture for the student, which then starts at random; also a torchvision name or timm:NAME.",
            family="models",
            or_other=True,
        ),
    ] = None
    kd: Annotated[
        str,
        Option(
            METHOD,
            "Lesson that the student learns from its teacher; tau=T,weight=W stands for soft-labels.",
            family="lessons",
            or_none=True,
        ),
    ] = "tau=4,weight=0.9"
    adversarial: Annotated[
        str | None,
        Option(METHOD, "Train on adversarial examples from this attack.", family="attacks", or_none=True),
    ] = "pgd:steps=7"
    epochs: Annotated[int, Option(METHOD, "Passes over the data.", minimum=1, free=True)] = 10
    draws: Annotated[int, Option(METHOD, "Draws that judge the finished student.", minimum=1)] = 10
    precision: Annotated[Precision, Option(RUN, "Precision of convolutions and products; auto is fp32.")] = "auto"

    @property
    def starts(self) -> Init:
        """Initial weights of the student; those of another architecture than the teacher's are random."""
        return "random" if self.arch else self.init

    @property
    def pretrained(self) -> bool:
        return self.starts == "teacher"

    def recorded(self) -> dict[str, object]:
        return super().recorded() | {"init": self.starts}
