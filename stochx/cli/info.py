"""`stochx info`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.cli import options as o
from stochx.cli import output


def info(
    model: Annotated[str, typer.Argument(help="What `--model` takes elsewhere: weights, a name, a factory.")],
    arch: o.Arch = None,
    mean: o.Mean = None,
    std: o.Std = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show what a model is: what its file says, what was recognised, what had to be guessed.

    Examples:
      stochx info resnet20.safetensors

      stochx info weights.pth --arch robust-cnn:first=2,second=2 --json
    """
    start = time.perf_counter()
    output.notes(quiet)
    from stochx.fewshot_networks import fewshot_facts
    from stochx.loading import open_model

    facts = fewshot_facts(Path(model))
    if facts is None:
        facts = open_model(model, arch=arch, mean=o.three_numbers(mean), std=o.three_numbers(std)).facts
    rows: list[dict[str, Any]] = [asdict(fact) for fact in facts]
    columns = [
        output.Column("what", lambda row: str(row["name"])),
        output.Column("value", lambda row: str(row["value"])),
        output.Column("source", lambda row: str(row["source"])),
    ]
    args = {"model": model, "arch": arch, "mean": mean, "std": std}
    document = output.result("info", args, {"device": "cpu"}, rows, time.perf_counter() - start)
    output.show(document, rows, columns, json)
