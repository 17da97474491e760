"""Settings of `stochx certify`."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import METHOD, OUTPUT, RUN, Option
from stochx.settings.choices import FailOn
from stochx.settings.figures import Figures
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Classified
from stochx.settings.values import Number, fraction

WIDEST = 5.0  # sigma in pixel units; 1 buries an image already


@dataclass(frozen=True)
class Gate:
    """A bound on certified accuracy at a radius: `0.4@0.5`."""

    bound: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Certify(Classified, Figures, RunFiles):
    """Certify the radius around every image in which no perturbation changes the vote under Gaussian noise.

    Examples:
      stochx certify student.safetensors --sigma 0.25 --data cifar10 --limit 500

      stochx certify student.safetensors --draws 100000 --radii 0,0.25,0.5 --fail-under 0.4@0.25
    """

    command: ClassVar[str] = "certify"

    sigma: Annotated[
        Number | None,
        Option(
            METHOD,
            "Standard deviation of the noise, in pixel units [0, 1]; default: the Gaussian noise that the network adds "
            "to its input.",
        ),
    ] = None
    draws: Annotated[
        int,
        Option(
            METHOD,
            "Noisy copies of each image that estimate the probability of its class; 100000 allow a radius 19 % larger.",
            minimum=1,
        ),
    ] = 10_000
    selection: Annotated[int, Option(METHOD, "Other noisy copies, which choose that class.", minimum=1)] = 100
    alpha: Annotated[
        float, Option(METHOD, "Probability that the certificate of an image is false, at most.", minimum=0, maximum=1)
    ] = 0.001
    radii: Annotated[
        str | None,
        Option(
            METHOD,
            "Radii of the table, in L2; default: multiples of half of sigma.",
            metavar="A,B,...",
            free=True,
        ),
    ] = None
    fail_under: Annotated[
        str | None,
        Option(RUN, "Exit with code 3 if certified accuracy at radius R is below X.", metavar="X@R", free=True),
    ] = None
    fail_on: Annotated[
        FailOn,
        Option(RUN, "Value that `--fail-under` compares: the estimate, or the lower end of its interval.", free=True),
    ] = "point"
    figure: Annotated[bool, Option(OUTPUT, "Draw certified accuracy over the radius.", free=True)] = True

    @property
    def deviation(self) -> float | None:
        """Sigma as a number, where it is given."""
        return None if self.sigma is None else _number(str(self.sigma), "--sigma", "0.25")

    @property
    def places(self) -> tuple[float, ...] | None:
        """Radii of the table in ascending order, where they are given."""
        if self.radii is None:
            return None
        return tuple(sorted({_number(text, "--radii", "0,0.25,0.5") for text in self.radii.split(",")}))

    @property
    def gate(self) -> Gate | None:
        """The bound of `--fail-under`."""
        if self.fail_under is None:
            return None
        bound, _, where = self.fail_under.partition("@")
        if not where:
            raise UsageError(f"`--fail-under {self.fail_under}` names no radius", f"write `--fail-under {bound}@0.25`")
        return Gate(_number(bound, "--fail-under", "0.4@0.25", most=1), _number(where, "--fail-under", "0.4@0.25"))

    def check(self) -> None:
        super().check()
        deviation = self.deviation
        if deviation is not None and not 0 < deviation <= WIDEST:
            wide = f"did you mean `--sigma {self.sigma}/255`?" if deviation else "use `--sigma 0.25`"
            reason = "above 0" if deviation == 0 else f"at most {WIDEST:g}: pixels lie in [0, 1]"
            raise UsageError(f"`--sigma {self.sigma}` is not {reason}", wide)
        if not 0 < self.alpha < 1:
            raise UsageError(f"`--alpha {self.alpha:g}` is no probability of an error", "use `--alpha 0.001`")
        if self.draws < self.selection:
            raise UsageError(
                f"`--draws {self.draws}` is below `--selection {self.selection}`",
                "use more draws: 100 certify 1.5 sigma at most, 10000 certify 3.2",
            )
        if self.alpha ** (1 / self.draws) <= 0.5:  # the bound of a probability where all draws agree
            raise UsageError(
                f"`--draws {self.draws}` certify nothing at `--alpha {self.alpha:g}`",
                f"use {floor(-log2(self.alpha)) + 1} or more",
            )
        _ = self.places, self.gate  # raise for texts that cannot be read


def _number(text: str, option: str, example: str, most: float = float("inf")) -> float:
    """Read a number, or a fraction as typed, that is not negative and at most `most`."""
    try:
        value = fraction(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most or value == float("inf"):
        kind = "a number from 0 to 1" if most == 1 else "a number of at least 0"
        raise UsageError(f"`{text.strip()}` in `{option}` is not {kind}", f"write `{option} {example}`")
    return value
