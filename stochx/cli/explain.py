"""`stochx explain`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stochx.catalog import ATTRIBUTIONS
from stochx.cli import options as o
from stochx.cli import output as out
from stochx.errors import UsageError


def explain(
    images: Annotated[list[Path] | None, typer.Argument(help="Images to explain.", show_default=False)] = None,
    model: o.Model = "resnet50",
    data: o.DataSet = None,
    limit: o.Limit = None,
    target: o.Target = None,
    arch: o.Arch = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop: o.Crop = True,
    support: Annotated[
        Path | None,
        typer.Option(
            help="Class folders (or a zip) of a few labelled images, for a few-shot network; explained by lrp.",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    method: o.Method = ["smoothtaylor"],  # noqa: B006  # the command line never changes it
    draws: o.Draws = 16,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    batch_size: o.BatchSize = "auto",
    resume: o.Resume = False,
    config: o.Config = None,
    output: o.Output = None,
    figure: Annotated[
        bool, typer.Option("--figure/--no-figure", help="Draw a figure for every image.", rich_help_panel=o.OUTPUT)
    ] = True,
    show: Annotated[
        bool, typer.Option("--show", help="Draw small previews on a colour terminal.", rich_help_panel=o.OUTPUT)
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Draw attribution maps: what in an image speaks for its class.

    Examples:
      stochx explain img.jpg --method smoothtaylor

      stochx explain *.jpg -m ig:steps=50 -m smoothtaylor:sigma=0.5,roots=150 --model squeezenet1_1 -o maps/
    """
    start = time.perf_counter()
    args: dict[str, object] = {
        "images": [str(path) for path in images or []],
        "model": model,
        "data": data,
        "limit": limit,
        "target": target,
        "arch": arch,
        "mean": mean,
        "std": std,
        "crop": crop,
        "method": list(method),
        "draws": draws,
        "device": device,
        "precision": precision,
        "seed": seed,
        "batch_size": batch_size,
        "figure": figure,
        "output": str(output or Path("stochx-out/explain")),
    }
    if support is not None:
        _explain_few_shot(args, images or [], support, resume=resume, as_json=json, quiet=quiet, start=start)
        return
    if not images and data is None:
        raise typer.BadParameter("give images, or a data set with --data")
    o.one_of(precision, ("auto", "fp32", "bf16", "tf32"), "--precision")
    rows_at_once = o.batch_size(batch_size)
    normalisation = o.three_numbers(mean), o.three_numbers(std)

    out.notes(quiet, verbose)
    from stochx.cli._explained import run_explain  # torch and all that stands on it come here

    methods = {text: ATTRIBUTIONS.make(text) for text in method}
    document, table, code = run_explain(
        args, methods, normalisation, rows_at_once, resume=resume, show=show, quiet=quiet, start=start
    )
    if document is not None:
        out.show(document, table, COLUMNS, json)
    raise typer.Exit(code)


def _explain_few_shot(
    args: dict[str, object],
    images: list[Path],
    support: Path,
    *,
    resume: bool,
    as_json: bool,
    quiet: bool,
    start: float,
) -> None:
    """Which parts of an image, and of the support, speak for each class."""
    method = ["lrp"] if args["method"] == ["smoothtaylor"] else args["method"]
    assert isinstance(method, list)
    if len(method) > 1 or method[0].partition(":")[0] != "lrp":
        raise UsageError(f"`--method {method[-1]}` does not reach a few-shot network", "use `lrp`, once")
    if not images:
        raise UsageError("there is nothing to explain", "give images as arguments")
    out.notes(quiet)
    from stochx.cli._fsc_explained import run_few_shot

    args |= {"method": method, "support": str(support), "images": [str(path) for path in images]}
    document, rows = run_few_shot(args, resume=resume, quiet=quiet, start=start)
    out.show(document, rows, FEW_SHOT, as_json)


FEW_SHOT = [
    out.Column("image", lambda row: str(row["image"])),
    out.Column("class", lambda row: str(row["class_name"])),
    out.Column("probability", out.number("probability", "{:.3f}")),
    out.Column("evidence", out.number("evidence", "{:+.3f}")),
    out.Column("relevance", out.number("relevance", "{:+.3f}")),
]
COLUMNS = [
    out.Column("image", lambda row: str(row["image"])),
    out.Column("method", lambda row: str(row["method"])),
    out.Column("target", lambda row: str(row["target"])),
    out.Column("class", lambda row: str(row["class_name"])),
    out.Column("probability", out.number("probability", "{:.3f}")),
    out.Column("gap", out.number("gap", "{:+.3f}")),
    out.Column("error", out.number("error", "{:.3f}")),
    out.Column("used", out.number("used", "{}")),
    out.Column("sigma", out.number("sigma", "{:.3f}")),
    out.Column("objective", out.number("objective", "{:.3f}")),
    out.Column("seconds", out.number("seconds", "{:.2f}")),
]
