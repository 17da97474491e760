"""`stochx score`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.catalog import ATTRIBUTIONS, METRICS
from stochx.cli import options as o
from stochx.cli import output as out
from stochx.errors import UsageError, suggest

CONTROLS = ("random", "centre", "sobel", "blurred-ig")
ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


def score(
    context: typer.Context,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Image files.", show_default=False)
    ] = None,
    model: o.Model = "resnet50",
    data: o.DataSet = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Score the maps in this folder (.npz, .npy) instead of making any.", rich_help_panel=o.WHAT),
    ] = None,
    limit: o.Limit = None,
    target: o.Target = None,
    arch: o.Arch = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop: o.Crop = True,
    method: o.Method = ["ig", "smoothgrad", "smoothtaylor"],  # noqa: B006  # the command line never changes it
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric",
            "-s",
            metavar="NAME[:KEY=VALUE,...]",
            callback=o.check(METRICS),
            autocompletion=o.complete(METRICS),
            help="Measure; repeat for more. One of: " + ", ".join(METRICS) + ".",
            rich_help_panel=o.METHOD,
        ),
    ] = ["aupc", "autvc"],  # noqa: B006
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Also maps that explain nothing: " + ", ".join(CONTROLS) + ".", rich_help_panel=o.METHOD
        ),
    ] = False,
    draws: o.Draws = 16,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE", help="Exit with 3 if a method's mean is above VALUE.", rich_help_panel=o.RUN
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE", help="Exit with 3 if a method's mean is below VALUE.", rich_help_panel=o.RUN
        ),
    ] = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    batch_size: o.BatchSize = "auto",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    output: o.Output = None,
    figure: Annotated[
        bool, typer.Option("--figure/--no-figure", help="Draw curves and a gallery.", rich_help_panel=o.OUTPUT)
    ] = True,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure maps: how sensitive, how noisy, how well they point; which method is better, and whether that is sure.

    Examples:
      stochx score img.jpg -m ig -m smoothtaylor -s aupc -s autvc --model squeezenet1_1.safetensors

      stochx score --data folder:root=photos -m ig -m smoothtaylor -s aupc --controls --limit 200 --fail-over aupc=25
    """
    start = time.perf_counter()
    folder = output or Path("stochx-out/score")
    methods = list(method)
    if maps is not None:
        if _typed(context, "method"):
            raise UsageError("`--method` makes maps, and `--maps` takes those there are", "leave out one of them")
        if controls:
            raise UsageError("`--controls` makes maps, and `--maps` takes those there are", "leave out one of them")
        methods = []
    elif controls:
        methods += [name for name in CONTROLS if name not in methods]
    args: dict[str, Any] = {
        "images": [str(path) for path in images or []],
        "model": model,
        "data": data,
        "maps": None if maps is None else str(maps),
        "limit": limit,
        "target": target,
        "arch": arch,
        "mean": mean,
        "std": std,
        "crop": crop,
        "method": methods,
        "metric": list(metric),
        "draws": draws,
        "fail_over": list(fail_over or []),
        "fail_under": list(fail_under or []),
        "device": device,
        "precision": precision,
        "seed": seed,
        "batch_size": batch_size,
        "figure": figure,
        "output": str(folder),
    }
    if not images and data is None and maps is None:
        raise typer.BadParameter("give images, a data set with --data, or maps with --maps")
    gates = [_gate(text, metric, over=True) for text in fail_over or []]
    gates += [_gate(text, metric, over=False) for text in fail_under or []]
    o.one_of(precision, ("auto", "fp32", "bf16", "tf32"), "--precision")
    rows_at_once = o.batch_size(batch_size)
    normalisation = o.three_numbers(mean), o.three_numbers(std)
    o.empty_or(folder, resume, overwrite)

    out.notes(quiet, verbose)
    from stochx.cli._scored import run_score  # torch and all that stands on it come here

    document, table, code = run_score(
        args,
        {text: ATTRIBUTIONS.make(text) for text in methods},
        {text: METRICS.make(text) for text in metric},
        normalisation,
        rows_at_once,
        gates,
        resume=resume,
        quiet=quiet,
        start=start,
    )
    if document is not None:
        show_scores(document, table, json)
    raise typer.Exit(code)


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


Gate = tuple[str, float, bool]  # metric, bound, whether above it is missed


def _gate(text: str, metrics: list[str], *, over: bool) -> Gate:
    """`autvc=1.6`, or `aupc:draws=10=25`: a metric that is scored, and its bound."""
    name, equals, bound = text.rpartition("=")
    option = "--fail-over" if over else "--fail-under"
    if not equals:
        raise UsageError(f"`{option} {text}` has no value", f"write `{option} {metrics[0]}=1.5`")
    fitting = [m for m in metrics if name in (m, m.partition(":")[0])]
    if len(fitting) != 1:
        reason = "names several metrics" if fitting else "names no metric that is scored"
        raise UsageError(f"`{option} {text}` {reason}", suggest(name, metrics))
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"`{option} {text}` expects a number, got `{bound}`", f"write `{option} {fitting[0]}=1.5`")
    return fitting[0], value, over


def show_scores(document: dict[str, Any], rows: list[dict[str, Any]], json: bool) -> None:
    """Print scores: on a terminal a line for each method and a column for each metric, else a line for each row."""
    if json or not out.stdout().is_terminal:
        out.show(document, rows, COLUMNS, json)
        return
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(row["method"], {"method": row["method"]})[row["metric"]] = row
    first = {metric: next(row for row in rows if row["metric"] == metric) for metric in metrics}
    columns = [out.Column("method", lambda row: str(row["method"]))]
    for metric in metrics:
        title = f"{metric} {ARROWS[first[metric]['better']]}\n(n = {first[metric]['n']})"
        columns.append(out.Column(title, lambda row, metric=metric: _cell(row[metric])))  # type: ignore[misc]
    out.show(document, list(cells.values()), columns, False)
    if any(row["best"] for row in rows):
        out.stdout().print("* best: every paired difference to it has p < 0.05 (sign-flip test, Holm)", style="dim")


def _cell(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return "–"
    interval = "" if row["ci95"] is None else f" ± {row['ci95']:.3g}"
    return f"{row['mean']:.4g}{interval}{' *' if row['best'] else ''}"


COLUMNS = [
    out.Column("method", lambda row: str(row["method"])),
    out.Column("metric", lambda row: str(row["metric"])),
    out.Column("mean", out.number("mean", "{:.6g}")),
    out.Column("ci95", out.number("ci95", "{:.4g}")),
    out.Column("n", out.number("n", "{}")),
    out.Column("excluded", out.number("excluded", "{}")),
    out.Column("better", lambda row: str(row["better"])),
    out.Column("best", lambda row: "yes" if row["best"] else ""),
    out.Column("p", out.number("p", "{:.3g}")),
    out.Column("setting", lambda row: str(row["setting"])),
]
