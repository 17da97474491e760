"""`stochx attack`."""

from __future__ import annotations

import time
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
            metavar="eps=A,B,...", help="Attack at several radii, and draw the curve.", rich_help_panel=o.METHOD
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
    radii = {text: o.radius(text, norm) for text in (_swept(sweep) if sweep is not None else [eps])}
    if versus is not None and sweep is not None:
        raise UsageError("`--versus` and `--sweep` do not go together", "leave out one of them")
    rows_at_once = o.batch_size(batch_size)
    normalisation = o.three_numbers(mean), o.three_numbers(std)
    o.empty_or(folder, resume, overwrite)

    out.notes(quiet, verbose)
    from stochx.cli._attacked import run_attack  # torch and all that stands on it come here

    made = {text: ATTACKS.make(text) for text in attack}
    document, rows, code = run_attack(
        args, made, radii, normalisation, rows_at_once, resume=resume, quiet=quiet, start=start
    )
    if document is not None:
        out.show(document, rows, _columns(rows), json)
        if not (json or quiet):
            _tell(document)
    raise typer.Exit(code)


def _swept(text: str) -> list[str]:
    """`eps=0,2/255,4/255` as texts."""
    name, equals, values = text.partition("=")
    if name != "eps" or not equals or not values:
        raise UsageError(f"`--sweep {text}` names no radii", "write `--sweep eps=0,2/255,4/255,8/255`")
    found = [value.strip() for value in values.split(",")]
    if len({*found}) < len(found) or not all(found):
        raise UsageError(f"`--sweep {text}` has an empty or repeated value", "give each radius once")
    return found


def _tell(document: dict[str, Any]) -> None:
    """What stands beside the table: verdicts of the checks, and the comparison."""
    console = out.stderr()
    for check in document["checks"]:
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[check["verdict"]]
        console.print(f"[{colour}]{check['verdict']:4}[/] {out.escape(check['text'])}", soft_wrap=True, highlight=False)
        if check["verdict"] != "ok":
            console.print(f"     {out.escape(check['advice'])}", soft_wrap=True, highlight=False)
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


def _columns(rows: list[dict[str, Any]]) -> list[out.Column]:
    """The table; models and radii only where there are several."""
    several = [key for key in ("model", "eps") if len({str(row[key]) for row in rows}) > 1]
    found = [out.Column(key, lambda row, key=key: str(row[key])) for key in several]  # type: ignore[misc]
    found += [
        out.Column("attack", lambda row: str(row["attack"])),
        out.Column("clean", _share("clean", "clean_low", "clean_high")),
        out.Column("robust", _share("robust", "low", "high")),
        out.Column("success", out.number("success", "{:.4f}")),
    ]
    if any(row["vote"] is not None for row in rows):
        found.append(out.Column("vote", out.number("vote", "{:.4f}")))
    return [
        *found,
        out.Column("n", out.number("n", "{}")),
        out.Column("forwards", out.number("forwards", "{:.1f}")),
        out.Column("seconds", out.number("seconds", "{:.1f}")),
    ]
