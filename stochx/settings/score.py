"""Settings of `stochx score`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from stochx.catalog import ATTRIBUTIONS, METRICS
from stochx.errors import UsageError, suggest
from stochx.settings.base import METHOD, OUTPUT, RUN, WHAT, Option
from stochx.settings.figures import Figures
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Comparison, Images

METHODS = ("ig", "smoothgrad", "smoothtaylor")


@dataclass(frozen=True)
class Gate:
    """A bound on the mean of a metric; `over` where a mean above it misses the gate, else one below."""

    metric: str
    bound: float
    over: bool


@dataclass(frozen=True, kw_only=True)
class Score(Images, Comparison, Figures, RunFiles):
    """Measure attribution maps: sensitivity, noise, localisation; and test which method is better.

    Examples:
      stochx score img.jpg -m ig -m smoothtaylor -s aupc -s autvc --model squeezenet1_1.safetensors

      stochx score --data folder:root=photos -m ig -m smoothtaylor -s aupc --controls --limit 200 --fail-over aupc=25
    """

    command: ClassVar[str] = "score"

    maps: Annotated[Path | None, Option(WHAT, "Score the maps in this folder (.npz, .npy).", metavar="DIR")] = None
    method: Annotated[
        tuple[str, ...], Option(METHOD, "Attribution; repeat to compare.", short="-m", family="attributions")
    ] = METHODS
    metric: Annotated[tuple[str, ...], Option(METHOD, "Metric; repeatable.", short="-s", family="metrics")] = (
        "aupc",
        "autvc",
    )
    controls: Annotated[bool, Option(METHOD, "Add control maps that explain nothing.", recorded=False)] = False
    removals: Annotated[
        Literal["own", "all"],
        Option(METHOD, "Replace removed pixels as the metrics say, or in all ways, to compare them.", recorded=False),
    ] = "own"
    trust: Annotated[
        bool,
        Option(
            METHOD,
            "Say how far each metric can be trusted: of the first 32 images, 12 times as many scores, and 6 more maps.",
        ),
    ] = False
    fail_over: Annotated[
        tuple[str, ...],
        Option(RUN, "Exit with 3 if a method's mean is above VALUE; repeatable.", metavar="METRIC=VALUE", free=True),
    ] = ()
    fail_under: Annotated[
        tuple[str, ...],
        Option(RUN, "Exit with 3 if a method's mean is below VALUE; repeatable.", metavar="METRIC=VALUE", free=True),
    ] = ()
    figure: Annotated[bool, Option(OUTPUT, "Draw curves and a gallery.")] = True

    @property
    def methods(self) -> tuple[str, ...]:
        """The attributions to make maps with; none where maps are given."""
        if self.maps is not None:
            return ()
        controls = control_methods() if self.controls else []
        return (*self.method, *(control for control in controls if control not in self.method))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics to score with: each with every replacement for removed pixels, where all are asked for."""
        if self.removals == "own":
            return self.metric
        return tuple(dict.fromkeys(text for metric in self.metric for text in [metric, *other_removals(metric)]))

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The bounds of `--fail-over` and `--fail-under`."""
        over = [self._gate("--fail-over", text) for text in self.fail_over]
        return (*over, *(self._gate("--fail-under", text) for text in self.fail_under))

    def check(self) -> None:
        super().check()
        if self.maps is not None:
            for option, given in (
                ("--method", self.method != METHODS),
                ("--controls", self.controls),
                ("--trust", self.trust),
            ):
                if given:
                    raise UsageError(f"`{option}` makes maps, `--maps` takes existing ones", "leave out one of them")
        elif not self.images and self.data is None:
            raise UsageError(
                "there is nothing to score", "name image files, a data set with `--data`, or maps with `--maps`"
            )
        if self.removals == "all" and self.metrics == self.metric:
            raise UsageError("none of the metrics removes pixels", "leave out `--removals`, or add `--metric srg`")
        _ = self.gates  # raises for texts that are no gates

    def recorded(self) -> dict[str, object]:
        """All methods and metrics; `trust` only where it is given: runs that were begun without the option go on."""
        record = super().recorded() | {"method": list(self.methods), "metric": list(self.metrics)}
        return record if self.trust else {name: value for name, value in record.items() if name != "trust"}

    def _gate(self, option: str, text: str) -> Gate:
        """Read `autvc=1.6`, or `aupc:draws=10=25`: a metric that is scored, and its bound."""
        name, equals, bound = text.rpartition("=")
        if not equals:
            raise UsageError(f"`{option} {text}` has no value", f"write `{option} {self.metric[0]}=1.5`")
        fitting = [m for m in self.metric if name in (m, m.partition(":")[0])]
        if len(fitting) != 1:
            reason = "names several metrics" if fitting else "names no metric that is scored"
            raise UsageError(f"`{option} {text}` {reason}", suggest(name, self.metric))
        try:
            value = float(bound)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(f"`{option} {text}` expects a number, got `{bound}`", f"write `{option} {fitting[0]}=1.5`")
        return Gate(fitting[0], value, option == "--fail-over")


def control_methods() -> list[str]:
    """Return the attributions that explain nothing: what a method has to beat."""
    return sorted(ATTRIBUTIONS.declaring("control"), key=lambda name: str(ATTRIBUTIONS.declares(name, "control")))


def removal_of(metric: str) -> tuple[str, str] | None:
    """Split `deletion:steps=9,removal=black` into `deletion:steps=9` and `black`; None where no pixels are removed."""
    name, values = METRICS.parse(metric)
    replaces = METRICS.declares(name, "replaces")
    if replaces is None:
        return None
    field = next(field for field in METRICS.fields(name) if field.name == replaces)
    rest = [item for item in METRICS.parse_name(metric)[1].split(",") if item and item.partition("=")[0] != field.key]
    return ":".join([name, *filter(None, [",".join(rest)])]), str(values.get(field.name, field.default))


def other_removals(metric: str) -> list[str]:
    """Return the metric with each other choice of what replaces removed pixels."""
    split = removal_of(metric)
    if split is None:
        return []
    base, own = split
    name = METRICS.parse_name(metric)[0]
    field = next(field for field in METRICS.fields(name) if field.name == METRICS.declares(name, "replaces"))
    return [f"{base}{',' if ':' in base else ':'}{field.key}={choice}" for choice in field.choices if choice != own]


def removal_groups(metrics: Sequence[str]) -> list[list[str]]:
    """Return the metrics that differ in what replaces removed pixels alone, together, in order."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        split = removal_of(metric)
        if split is not None:
            groups.setdefault(split[0], []).append(metric)
    return list(groups.values())
