"""`stochx demo`."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from stochx.cli import options as o
from stochx.cli import output as out

METHODS = ["gradcam", "ig", "lrp", "smoothgrad", "smoothtaylor"]


def demo(output: o.Output = None, seed: o.Seed = 0, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Train a small network on images drawn here, explain some of them, and check the maps against the truth.

    Examples:
      stochx demo

      stochx demo -o /tmp/demo --json
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/demo")
    args: dict[str, object] = {"output": str(target), "seed": seed}
    out.notes(quiet)
    from stochx.cli._demonstrated import run_demo

    document, rows = run_demo(args, target, METHODS, quiet=quiet, start=start)
    out.show(document, rows, COLUMNS, json)
    if not (json or quiet):
        out.stderr().print(f"figures: {target}/explain/*.png", highlight=False)
    raise typer.Exit(0)


COLUMNS = [
    out.Column("method", lambda row: str(row["method"])),
    out.Column("mass in object", lambda row: f"{row['mass']:.2f} ± {row['ci95']:.2f}"),
    out.Column("object's area", out.number("area", "{:.2f}")),
    out.Column("hits", out.number("hits", "{:.2f}")),
    out.Column("n", out.number("n", "{}")),
]
