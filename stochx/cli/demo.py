"""`stochx demo`."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from stochx.cli import options as o
from stochx.cli import output as out
from stochx.cli.score import show_scores

METHODS = ["gradcam", "ig", "lrp", "smoothgrad", "smoothtaylor", "random", "centre"]  # the last two are controls
METRICS = ["relevance-mass", "pointing-game", "aupc:draws=10", "autvc"]


def demo(output: o.Output = None, seed: o.Seed = 0, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Train a small network on images drawn here, explain some of them, and score the maps against the truth.

    Examples:
      stochx demo

      stochx demo -o /tmp/demo --json
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/demo")
    args: dict[str, object] = {"output": str(target), "seed": seed}
    out.notes(quiet)
    from stochx.cli._demonstrated import run_demo

    document, rows = run_demo(args, target, METHODS, METRICS, quiet=quiet, start=start)
    show_scores(document, rows, json)
    if not (json or quiet):
        out.stderr().print(f"figures: {target}/explain/*.png, {target}/score/*.png", highlight=False)
    raise typer.Exit(0)
