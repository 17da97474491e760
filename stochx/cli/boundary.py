"""`stochx boundary`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.cli import options as o
from stochx.cli import output as out
from stochx.errors import UsageError

PLANES = ("images", "gradient", "attack")


def boundary(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Networks as for `--model` elsewhere; the first is what the others are compared with.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            help="Data set with the images.",
            autocompletion=o.complete(o.DATASETS),
            rich_help_panel=o.WHAT,
        ),
    ] = "cifar10",
    images: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Places or keys of images; default the first of three classes, or the first one.",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    arch: o.Arch = None,
    mean: o.Mean = None,
    std: o.Std = None,
    plane: Annotated[
        str,
        typer.Option(
            help="images (through each three), gradient (each one's loss gradient and a random direction) or attack.",
            autocompletion=lambda incomplete: [name for name in PLANES if name.startswith(incomplete)],
            rich_help_panel=o.METHOD,
        ),
    ] = "images",
    resolution: Annotated[
        int, typer.Option(min=2, help="Points along the plane's longer side.", rich_help_panel=o.METHOD)
    ] = 200,
    eps: Annotated[
        str, typer.Option(help="Unit of gradient and attack planes, in pixels in [0, 1].", rich_help_panel=o.METHOD)
    ] = "8/255",
    span: Annotated[float, typer.Option(help="They reach so many eps both ways.", rich_help_panel=o.METHOD)] = 4.0,
    draws: Annotated[
        int, typer.Option(min=1, help="Draws of a stochastic network's noise at each point.", rich_help_panel=o.METHOD)
    ] = 50,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    batch_size: o.BatchSize = "auto",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    output: o.Output = None,
    figure: Annotated[
        bool, typer.Option("--figure/--no-figure", help="Draw the planes.", rich_help_panel=o.OUTPUT)
    ] = True,
    animate: Annotated[
        bool | None,
        typer.Option(
            "--animate/--no-animate",
            help="A GIF over the networks; default for more than two of one architecture.",
            rich_help_panel=o.OUTPUT,
            show_default=False,
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Decision boundaries of networks on planes through images: figures, their evolution, and how far they agree.

    Examples:
      stochx boundary teacher.safetensors student.safetensors --data cifar10 --images 3,17,42 -o planes/

      stochx boundary run/checkpoints/*.safetensors --plane gradient --images 5 --draws 20
    """
    start = time.perf_counter()
    folder = output or Path("stochx-out/boundary")
    args: dict[str, Any] = {
        "models": list(models),
        "data": data,
        "images": images,
        "arch": arch,
        "mean": mean,
        "std": std,
        "plane": plane,
        "resolution": resolution,
        "eps": eps,
        "span": span,
        "draws": draws,
        "device": device,
        "seed": seed,
        "batch_size": batch_size,
        "figure": figure,
        "animate": animate,
        "output": str(folder),
    }
    o.one_of(plane, PLANES, "--plane")
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"`{twice}` is given twice", "name each network once")
    radius = o.radius(eps, "linf")
    if not radius * span > 0:
        raise UsageError(f"a plane of `--eps {eps}` and `--span {span:g}` is a point", "both must be above 0")
    rows_at_once = o.batch_size(batch_size)
    normalisation = o.three_numbers(mean), o.three_numbers(std)
    o.empty_or(folder, resume, overwrite)

    out.notes(quiet, verbose)
    from stochx.cli._bounded import run_boundary  # torch and all that stands on it come here

    document, rows = run_boundary(args, radius, normalisation, rows_at_once, resume=resume, quiet=quiet, start=start)
    if document is not None:
        out.show(document, rows, _columns(rows), json)


def _columns(rows: list[dict[str, Any]]) -> list[out.Column]:
    """The table; disagreement and eps only where there are any."""
    optional = [
        out.Column("disagreement", out.number("disagreement", "{:.4f}")),
        out.Column("distance_eps", out.number("distance_eps", "{:.3f}")),
    ]
    return [
        out.Column("plane", lambda row: str(row["plane"])),
        out.Column("model", lambda row: str(row["model"])),
        out.Column("agreement", out.number("agreement", "{:.4f}")),
        out.Column("iou", out.number("iou", "{:.4f}")),
        out.Column("regions", out.number("regions", "{}")),
        out.Column("classes", lambda row: str(len(row["shares"]))),
        out.Column("confidence", out.number("confidence", "{:.4f}")),
        out.Column("distance", out.number("distance", "{:.4f}")),
        *(column for column in optional if any(row[column.name] is not None for row in rows)),
        out.Column("changed", lambda row: f"{row['changed']}/{row['n']}"),
        out.Column("seconds", out.number("seconds", "{:.1f}")),
    ]
