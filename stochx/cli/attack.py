"""`stochx attack`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.catalog import ATTACKS
from stochx.cli import options as o
from stochx.cli import output as out
from stochx.errors import UsageError

NORMS = ("linf", "l2", "l1")


def attack(
    model: Annotated[
        str,
        typer.Argument(help="Weights, a torchvision name, timm:NAME or package.module:factory.", show_default=False),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Labelled images.",
            autocompletion=o.complete(o.DATASETS),
            rich_help_panel=o.WHAT,
        ),
    ] = "cifar10",
    versus: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Another network to compare with.", rich_help_panel=o.WHAT)
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The network `transfer` crafts on.", rich_help_panel=o.WHAT)
    ] = None,
    limit: o.Limit = None,
    target: o.Target = None,
    arch: o.Arch = None,
    mean: o.Mean = None,
    std: o.Std = None,
    attack: Annotated[
        list[str],
        typer.Option(
            "--attack",
            "-a",
            metavar="NAME[:KEY=VALUE,...]",
            callback=o.check(ATTACKS),
            autocompletion=o.complete(ATTACKS),
            help="Attack; repeat for more. One of: " + ", ".join(ATTACKS) + ".",
            rich_help_panel=o.METHOD,
        ),
    ] = ["fgsm", "pgd"],  # noqa: B006  # the command line never changes it
    eps: Annotated[
        str, typer.Option(help="Radius of the ball in units of pixels in [0, 1].", rich_help_panel=o.METHOD)
    ] = "8/255",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.", rich_help_panel=o.METHOD)] = "linf",
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="eps=A,B,...|noise=A:B:STEP",
            help="Attack at several radii, or degrees of the network's noise (1: as trained), and draw the curve.",
            rich_help_panel=o.METHOD,
        ),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="any point of an attack counts, or only its last.", rich_help_panel=o.METHOD)
    ] = "any",
    draws: Annotated[
        int, typer.Option(min=1, help="Fresh draws that judge a stochastic network.", rich_help_panel=o.METHOD)
    ] = 32,
    checks: Annotated[
        str, typer.Option(help="none, quick or full: can this evaluation be believed?", rich_help_panel=o.METHOD)
    ] = "quick",
    fail_under: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 3 if robust accuracy is below.", rich_help_panel=o.RUN)
    ] = None,
    fail_on: Annotated[
        str, typer.Option(help="point, or lower end of the interval, for --fail-under.", rich_help_panel=o.RUN)
    ] = "point",
    device: o.Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="Of attack gradients: auto (fp32), fp32, bf16, tf32; verdicts are fp32.", rich_help_panel=o.RUN
        ),
    ] = "auto",
    seed: o.Seed = 0,
    batch_size: o.BatchSize = "auto",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    save_adversarial: Annotated[
        bool, typer.Option("--save-adversarial", help="Write the changed images as PNG.", rich_help_panel=o.OUTPUT)
    ] = False,
    output: o.Output = None,
    figure: Annotated[
        bool, typer.Option("--figure/--no-figure", help="Draw examples and curves.", rich_help_panel=o.OUTPUT)
    ] = True,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Attack a network in a ball around every image: its robust accuracy, and whether that number can be believed.

    Examples:
      stochx attack teacher.safetensors --data cifar10 --limit 1000

      stochx attack student.safetensors -a pgd:steps=50,eot=20,restarts=5 -a square --draws 32 --fail-under 0.40
    """
    start = time.perf_counter()
    folder = output or Path("stochx-out/attack")
    args: dict[str, Any] = {
        "model": model,
        "data": data,
        "versus": versus,
        "source": source,
        "limit": limit,
        "target": target,
        "arch": arch,
        "mean": mean,
        "std": std,
        "attack": list(attack),
        "eps": eps,
        "norm": norm,
        "sweep": sweep,
        "judge": judge,
        "draws": draws,
        "checks": checks,
        "fail_under": fail_under,
        "fail_on": fail_on,
        "device": device,
        "precision": precision,
        "seed": seed,
        "batch_size": batch_size,
        "save_adversarial": save_adversarial,
        "figure": figure,
        "output": str(folder),
    }
    o.one_of(norm, NORMS, "--norm")
    o.one_of(judge, ("any", "last"), "--judge")
    o.one_of(checks, ("none", "quick", "full"), "--checks")
    o.one_of(fail_on, ("point", "lower"), "--fail-on")
    o.one_of(precision, ("auto", "fp32", "bf16", "tf32"), "--precision")
    swept = points(sweep, eps, norm)
    if versus is not None and sweep is not None:
        raise UsageError("`--versus` and `--sweep` do not go together", "leave out one of them")
    rows_at_once = o.batch_size(batch_size)
    normalisation = o.three_numbers(mean), o.three_numbers(std)
    o.empty_or(folder, resume, overwrite)

    out.notes(quiet, verbose)
    from stochx.cli._attacked import run_attack  # torch and all that stands on it come here

    made = {text: ATTACKS.make(text) for text in attack}
    document, rows, code = run_attack(
        args, made, swept, normalisation, rows_at_once, resume=resume, quiet=quiet, start=start
    )
    if document is not None:
        out.show(document, rows, _columns(rows), json)
        if not (json or quiet):
            _tell(document)
    raise typer.Exit(code)


@dataclass(frozen=True)
class Point:
    """Where to attack: a radius, and the degree of the network's own noise (None: as it is); `text` as typed."""

    text: str
    eps: float
    noise: float | None = None


def points(sweep: str | None, eps: str, norm: str) -> list[Point]:
    """The points of `eps=0,2/255,4/255`, of `noise=0,0.5,1` or `noise=0:2:0.25`; without a sweep one."""
    if sweep is None:
        return [Point(eps, o.radius(eps, norm))]
    name, equals, values = sweep.partition("=")
    if name not in ("eps", "noise") or not equals or not values:
        raise UsageError(f"`--sweep {sweep}` names no points", "write `--sweep eps=0,2/255,4/255` or `noise=0:2:0.25`")
    found = [value.strip() for value in values.split(",")]
    if name == "noise" and ":" in values:
        found = _range(sweep, values)
    if not all(found):
        raise UsageError(f"`--sweep {sweep}` has an empty value", "leave it out")
    made = [
        Point(text, o.radius(text, norm)) if name == "eps" else Point(text, o.radius(eps, norm), _degree(sweep, text))
        for text in found
    ]
    if len({(point.eps, point.noise) for point in made}) < len(made):
        raise UsageError(f"`--sweep {sweep}` has a repeated value", "give each one once")
    return made


def _degree(sweep: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"`{text}` in `--sweep {sweep}` is no degree of noise", "0 is off, 1 as trained, 2 twice that")
    return value


def _range(sweep: str, values: str) -> list[str]:
    """`0:2:0.25` as texts, both ends included."""
    parts = [_degree(sweep, part) for part in values.split(":")]
    if len(parts) != 3 or parts[2] <= 0 or parts[1] < parts[0] or (parts[1] - parts[0]) / parts[2] > 1000:
        raise UsageError(f"`--sweep {sweep}` is no range", "write first:last:step, e.g. `noise=0:2:0.25`")
    count = int((parts[1] - parts[0]) / parts[2] + 1e-9) + 1
    return [f"{parts[0] + k * parts[2]:.6g}" for k in range(count)]


def _tell(document: dict[str, Any]) -> None:
    """What stands beside the table: verdicts of the checks, and the comparison."""
    console = out.stderr()
    for check in document["checks"]:
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[check["verdict"]]
        console.print(f"[{colour}]{check['verdict']:4}[/] {out.escape(check['text'])}", soft_wrap=True, highlight=False)
        if check["verdict"] != "ok":
            console.print(f"     {out.escape(check['advice'])}", soft_wrap=True, highlight=False)
    saved = document["saved"]
    if saved is not None and (saved["outside"] or saved["healed"]):
        console.print(
            f"[yellow]warn[/] rounding to 8 bits took {saved['outside']} of {saved['images']} images out of the ball"
            f" and made {saved['healed']} right again",
            soft_wrap=True,
            highlight=False,
        )
    versus = document.get("versus")
    if versus is not None:
        better = "no difference that is sure" if versus["p"] >= 0.05 else "the difference is sure"
        console.print(
            f"worst case, first minus second: {versus['difference']:+.4f}"
            f" ({versus['low']:+.4f} to {versus['high']:+.4f}), p = {versus['p']:.2g}, n = {versus['n']}: {better}",
            soft_wrap=True,
            highlight=False,
        )


def _share(mean: str, low: str, high: str) -> Any:
    return lambda row: f"{row[mean]:.4f} [{row[low]:.3f}, {row[high]:.3f}]"


def _number_or_name(key: str) -> Any:
    return lambda row: f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key])


def _columns(rows: list[dict[str, Any]]) -> list[out.Column]:
    """The table; models and radii only where there are several."""
    several = [key for key in ("model", "eps", "degree") if len({str(row[key]) for row in rows}) > 1]
    found = [out.Column(key, _number_or_name(key)) for key in several]
    found += [
        out.Column("attack", lambda row: str(row["attack"])),
        out.Column("clean", _share("clean", "clean_low", "clean_high")),
        out.Column("robust", _share("robust", "low", "high")),
        out.Column("success", out.number("success", "{:.4f}")),
    ]
    if any(row["vote"] is not None for row in rows):
        found.append(out.Column("vote", out.number("vote", "{:.4f}")))
    if any(row["robust_off"] is not None for row in rows):
        found.append(out.Column("noise off", out.number("robust_off", "{:.4f}")))
    return [
        *found,
        out.Column("n", out.number("n", "{}")),
        out.Column("forwards", out.number("forwards", "{:.1f}")),
        out.Column("seconds", out.number("seconds", "{:.1f}")),
    ]
