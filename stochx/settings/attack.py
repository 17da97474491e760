"""Settings of `stochx attack`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.catalog import FAMILIES
from stochx.errors import UsageError
from stochx.settings.base import METHOD, OUTPUT, RUN, WHAT, Option
from stochx.settings.choices import Checks, FailOn, Judge, Norm, Precision, Randomness
from stochx.settings.figures import Figures
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Classified, Comparison
from stochx.settings.values import Gate, Number, gate, radius

MOST_POINTS = 1000  # of a sweep
SPLITS = (1, 5, 20, 50)  # draws a step among which a budget is spent


@dataclass(frozen=True)
class Point:
    """A point of a sweep: the radius, the degree of the network's noise (None: as it is), and the text as typed."""

    text: str
    eps: float
    noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class Attack(Classified, Comparison, Figures, RunFiles):
    """Attack a network in a ball around every image, and look for signs that its robust accuracy cannot be believed.

    Examples:
      stochx attack teacher.safetensors --data cifar10 --limit 1000

      stochx attack teacher.safetensors -a fmn --curve --fail-under 0.4@4/255

      stochx attack student.safetensors -a pgd:steps=50,restarts=5 -a square --draws 32 --fail-under 0.40
    """

    command: ClassVar[str] = "attack"

    versus: Annotated[str | None, Option(WHAT, "Second network to compare with.", metavar="MODEL")] = None
    source: Annotated[str | None, Option(WHAT, "Network that `transfer` crafts its examples on.", metavar="MODEL")] = (
        None
    )
    target: Annotated[str | None, Option(WHAT, "Target class, by index or name; default: any wrong class.")] = None
    attack: Annotated[
        tuple[str, ...],
        Option(METHOD, "Attack; repeatable.", short="-a", family="attacks"),
    ] = ("fgsm", "pgd")
    eps: Annotated[Number, Option(METHOD, "Radius of the ball, in pixel units [0, 1].")] = "8/255"
    norm: Annotated[Norm, Option(METHOD, "Norm of the ball.")] = "linf"
    sweep: Annotated[
        str | None,
        Option(
            METHOD,
            "Attack at several radii, or degrees of the network's noise (1: as trained), and draw the curve.",
            metavar="eps=A,B,...|noise=A:B:STEP",
        ),
    ] = None
    curve: Annotated[
        bool,
        Option(METHOD, "Robust accuracy at every radius, from the nearest points of `fmn`, `ddn` or `fab`."),
    ] = False
    judge: Annotated[Judge, Option(METHOD, "Count any point of an attack, or only its last.")] = "any"
    randomness: Annotated[
        Randomness,
        Option(METHOD, "The noise of a stochastic network: secret, known to the attacker (its seed), or off."),
    ] = "secret"
    budget: Annotated[
        int | None,
        Option(
            METHOD,
            "Spend N gradients an image in each of several ways, from N steps of one draw to N/50 of 50.",
            minimum=2,
            free=True,
        ),
    ] = None
    draws: Annotated[int, Option(METHOD, "Number of fresh draws that judge a stochastic network.", minimum=1)] = 32
    checks: Annotated[Checks, Option(METHOD, "Checks that tell when the evaluation cannot be believed.")] = "quick"
    fail_under: Annotated[
        Number | None,
        Option(
            RUN,
            "Exit with code 3 if robust accuracy is below X, at the radius EPS: any with `--curve`.",
            metavar="X[@EPS]",
            free=True,
        ),
    ] = None
    fail_on: Annotated[
        FailOn, Option(RUN, "Value that `--fail-under` compares: the estimate, or the lower end of its interval.")
    ] = "point"
    precision: Annotated[
        Precision, Option(RUN, "Precision of attack gradients; auto is fp32. Verdicts are always fp32.")
    ] = "auto"
    save_adversarial: Annotated[bool, Option(OUTPUT, "Write the adversarial images as PNG.")] = False
    figure: Annotated[bool, Option(OUTPUT, "Draw examples and curves.")] = True

    @property
    def points(self) -> tuple[Point, ...]:
        """Points of the sweep `eps=0,2/255`, `noise=0,0.5,1` or `noise=0:2:0.25`; without a sweep, one point."""
        if self.sweep is None:
            return (Point(str(self.eps), radius(self.eps, self.norm)),)
        name, values = _axis(self.sweep)
        if name == "eps":
            points = [Point(text, radius(text, self.norm, "--sweep eps=")) for text in values]
        else:
            points = [Point(text, radius(self.eps, self.norm), _degree(self.sweep, text)) for text in values]
        if len({(point.eps, point.noise) for point in points}) < len(points):
            raise UsageError(f"`--sweep {self.sweep}` has a repeated value", "give each one once")
        return tuple(points)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks; with a budget, each with every number of draws that divides it."""
        if self.budget is None:
            return self.attack
        texts = self.attack if self.attack != Attack.attack else ("pgd",)
        return tuple(spent for text in texts for spent in _spend(text, self.budget))

    @property
    def gate(self) -> Gate | None:
        """The accuracy that `--fail-under` asks for."""
        return None if self.fail_under is None else gate(str(self.fail_under), self.norm)

    def check(self) -> None:
        super().check()
        assert self.attacks  # reads the texts
        if self.versus is not None and self.sweep is not None:
            raise UsageError("`--versus` and `--sweep` do not go together", "leave out one of them")
        points, asked = self.points, self.gate
        if self.randomness == "off" and points[0].noise is not None:
            raise UsageError(
                f"`--sweep {self.sweep}` and `--randomness off` do not go together", "sweep to a degree of 0 instead"
            )
        if asked is not None and asked.eps not in (None, *(point.eps for point in points)) and not self.curve:
            eps = str(self.fail_under).partition("@")[2]
            raise UsageError(
                f"`--fail-under {self.fail_under}` asks for a radius that is not attacked",
                f"use `--eps {eps}`, or `--curve` for all radii",
            )
        if self.curve:
            self._check_curve()

    def _check_curve(self) -> None:
        if self.sweep is not None:
            raise UsageError("`--curve` and `--sweep` do not go together", "leave out one of them")
        if self.randomness == "known":
            raise UsageError("`--curve` and `--randomness known` do not go together", "leave out one of them")
        if self.judge == "last":
            raise UsageError(
                "`--curve` takes the nearest point of an attack, `--judge last` its last", "leave out one of them"
            )
        if not any(FAMILIES["attacks"].declares(text, "minimal") for text in self.attack):
            raise UsageError(
                "`--curve` needs an attack that looks for the nearest misclassified point", "add `-a fmn` or `-a fab`"
            )


def _spend(text: str, budget: int) -> list[str]:
    """Return an attack with `budget` gradients in all, as steps times draws."""
    attacks = FAMILIES["attacks"]
    name, given = attacks.parse(text)
    fields = {field.name for field in attacks.fields(name)}
    if not {"steps", "eot"} <= fields:
        raise UsageError(f"`{name}` has no steps and draws to divide `--budget` among", "use `pgd` or `apgd`")
    if fixed := sorted({"steps", "eot"} & given.keys()):
        raise UsageError(f"`{text}` fixes `{fixed[0]}`, which `--budget` sets", "leave out one of them")
    draws = [count for count in SPLITS if budget % count == 0 and count <= budget]
    if draws == [1]:
        raise UsageError(
            f"`--budget {budget}` cannot be divided into steps of {', '.join(map(str, SPLITS[1:]))} draws",
            f"use a multiple of {SPLITS[1]}, such as 1000",
        )
    others = "".join(f",{key}={value}" for key, value in given.items())
    return [f"{name}:steps={budget // count},eot={count}{others}" for count in draws]


def _axis(sweep: str) -> tuple[str, list[str]]:
    """Split a sweep into its axis and the texts of its values."""
    name, equals, rest = sweep.partition("=")
    if name not in ("eps", "noise") or not equals or not rest:
        raise UsageError(f"`--sweep {sweep}` names no points", "write `--sweep eps=0,2/255,4/255` or `noise=0:2:0.25`")
    values = [value.strip() for value in rest.split(",")]
    if name == "noise" and ":" in rest:
        values = _range(sweep, rest)
    if not all(values):
        raise UsageError(f"`--sweep {sweep}` has an empty value", "leave it out")
    return name, values


def _degree(sweep: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(
            f"`{text}` in `--sweep {sweep}` is not a degree of noise", "0 is off, 1 as trained, 2 twice that"
        )
    return value


def _range(sweep: str, text: str) -> list[str]:
    """Spell out `0:2:0.25`, both ends included."""
    parts = [_degree(sweep, part) for part in text.split(":")]
    if len(parts) != 3 or parts[2] <= 0 or parts[1] < parts[0] or (parts[1] - parts[0]) / parts[2] > MOST_POINTS:
        raise UsageError(f"`--sweep {sweep}` is not a range", "write first:last:step, e.g. `noise=0:2:0.25`")
    count = int((parts[1] - parts[0]) / parts[2] + 1e-9) + 1
    return [f"{parts[0] + k * parts[2]:.6g}" for k in range(count)]
