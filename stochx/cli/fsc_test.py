"""`stochx fsc-test`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.cli import fewshot
from stochx.cli import options as o
from stochx.cli import output as out


def fsc_test(
    model: Annotated[Path, typer.Argument(help="Few-shot network, a file of `fsc-train`.", show_default=False)],
    data: fewshot.Domains = ["shapes"],  # noqa: B006  # the command line never changes it
    versus: Annotated[
        Path | None,
        typer.Option(help="Another one, compared on the same episodes.", rich_help_panel=o.WHAT),
    ] = None,
    arch: o.Arch = None,
    shot: Annotated[
        list[int],
        typer.Option("--shot", help="Labelled images of each class; repeat for several.", rich_help_panel=o.METHOD),
    ] = [1, 5],  # noqa: B006
    way: Annotated[
        int | None, typer.Option(help="Classes of an episode; default those of training.", rich_help_panel=o.METHOD)
    ] = None,
    queries: fewshot.Queries = 15,
    episodes: Annotated[
        int, typer.Option(min=2, help="Episodes for each domain and shot.", rich_help_panel=o.METHOD)
    ] = 2000,
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive", help="Queries that are sure join the support, in two rounds.", rich_help_panel=o.METHOD
        ),
    ] = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    output: o.Output = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure a few-shot network on classes, and domains, that it has not seen.

    Examples:
      stochx fsc-test run/model.safetensors --data novel.zip --shot 1 --shot 5 --episodes 2000

      stochx fsc-test guided.safetensors --versus plain.safetensors --data birds/ --data satellite/
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/fsc-test")
    args: dict[str, object] = {
        "model": str(model),
        "data": list(data),
        "versus": str(versus) if versus else None,
        "arch": arch,
        "shot": list(shot),
        "way": way,
        "queries": queries,
        "episodes": episodes,
        "transductive": transductive,
        "device": device,
        "seed": seed,
        "output": str(target),
    }
    for one in shot:
        fewshot.at_least(shot=one)
    fewshot.at_least(way=way or 2, queries=queries)
    fewshot.distinct(data)
    o.empty_or(target, resume, overwrite)
    out.notes(quiet)
    from stochx.cli._fsc_tested import run_test

    document, rows = run_test(args, target, resume=resume, quiet=quiet, start=start)
    if document is not None:
        out.show(document, rows, [*COLUMNS, *(VERSUS if versus else [])], json)


def _share(key: str, ci95: str, pattern: str = "{:.2f}") -> Any:
    """A percentage with its interval."""
    return lambda row: f"{pattern} ± {{:.2f}}".format(100 * row[key], 100 * row[ci95])


COLUMNS = [
    out.Column("domain", lambda row: str(row["domain"])),
    out.Column("way", out.number("way", "{}")),
    out.Column("shot", out.number("shot", "{}")),
    out.Column("accuracy %", _share("accuracy", "ci95")),
    out.Column("n", out.number("n", "{}")),
    out.Column("inference", lambda row: str(row["inference"])),
]
VERSUS = [
    out.Column("versus %", _share("accuracy_versus", "ci95_versus")),
    out.Column("difference", _share("difference", "ci95_difference", "{:+.2f}")),
    out.Column("p", out.number("p", "{:.2g}")),
]
