"""`stochx fsc-train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stochx.catalog import GUIDES, HEADS
from stochx.cli import fewshot
from stochx.cli import options as o
from stochx.cli import output as out
from stochx.errors import UsageError


def fsc_train(
    data: fewshot.Domains = ["shapes"],  # noqa: B006  # the command line never changes it
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Go on from this few-shot network, with its backbone, head and size of images.",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What gives feature maps: an architecture, or a stored classifier without its last layer; default"
            " conv4.",
            rich_help_panel=o.WHAT,
        ),
    ] = None,
    arch: o.Arch = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, help="Side of the images in pixels; default the backbone's.", rich_help_panel=o.WHAT),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            callback=o.check_one(HEADS),
            autocompletion=o.complete(HEADS),
            help="What compares images; default relation. One of: " + ", ".join(HEADS) + ".",
            rich_help_panel=o.METHOD,
        ),
    ] = None,
    guide: Annotated[
        str,
        typer.Option(
            metavar="NAME[:KEY=VALUE,...]",
            callback=o.check_one(GUIDES),
            autocompletion=o.complete(GUIDES),
            help="What weighs features in training. One of: " + ", ".join(GUIDES) + ".",
            rich_help_panel=o.METHOD,
        ),
    ] = "lrp",
    way: fewshot.Way = 5,
    shot: Annotated[int, typer.Option(help="Labelled images of each class.", rich_help_panel=o.METHOD)] = 5,
    queries: fewshot.Queries = 16,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of training.", rich_help_panel=o.METHOD)] = 2000,
    every: Annotated[
        int, typer.Option(min=1, help="Episodes between two validations and checkpoints.", rich_help_panel=o.METHOD)
    ] = 100,
    validation: Annotated[
        int,
        typer.Option(
            min=0,
            help="Episodes of each validation, on classes apart, which choose the best epoch; 0 none.",
            rich_help_panel=o.METHOD,
        ),
    ] = 200,
    patience: o.Patience = 0,
    fwt: Annotated[
        bool,
        typer.Option(
            "--fwt", help="Shake features in training (feature-wise transformation).", rich_help_panel=o.METHOD
        ),
    ] = False,
    augment: Annotated[
        bool, typer.Option("--augment/--no-augment", help="Crop, mirror and recolour images.", rich_help_panel=o.METHOD)
    ] = True,
    lr: Annotated[float, typer.Option("--lr", min=1e-6, help="Learning rate.", rich_help_panel=o.METHOD)] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Episodes a step.", rich_help_panel=o.METHOD)] = 1,
    optimizer: o.Optimizer = "adamw",
    schedule: o.Schedule = "constant",
    decay: o.Decay = 0.0,
    average: o.Average = 0.0,
    accumulate: o.Accumulate = 1,
    device: o.Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="Of the backbone and of the head's large layers: auto (fp32), fp32, bf16 or tf32.",
            rich_help_panel=o.RUN,
        ),
    ] = "auto",
    seed: o.Seed = 0,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    save_epochs: o.SaveEpochs = False,
    output: o.Output = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a few-shot network by episodes, guided by the relevance of its own features.

    Examples:
      stochx fsc-train --head relation --guide lrp --data folder:root=mini --way 5 --shot 5 -o run/

      stochx fsc-train --head gnn --guide none --backbone resnet10 --data a.zip --data b.zip --episodes 20000
    """
    start = time.perf_counter()
    target = output or Path("stochx-out/fsc-train")
    brought = {"--backbone": backbone, "--head": head, "--size": size}
    if init and (given := [option for option, value in brought.items() if value is not None]):
        raise UsageError(f"`--init` brings its own {given[0]}", f"leave out `{given[0]}`")
    args: dict[str, object] = {
        "data": list(data),
        "init": init,
        "backbone": backbone or (None if init else "conv4"),
        "arch": arch,
        "size": size,
        "head": head or (None if init else "relation"),
        "guide": guide,
        "way": way,
        "shot": shot,
        "queries": queries,
        "episodes": episodes,
        "every": every,
        "validation": validation,
        "patience": patience,
        "fwt": fwt,
        "augment": augment,
        "lr": lr,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "schedule": schedule,
        "decay": decay,
        "average": average,
        "accumulate": accumulate,
        "device": device,
        "precision": precision,
        "seed": seed,
        "save_epochs": save_epochs,
        "output": str(target),
    }
    fewshot.at_least(way=way, shot=shot, queries=queries)
    fewshot.distinct(data)
    o.one_of(optimizer, ("sgd", "adamw"), "--optimizer")
    o.one_of(schedule, ("one-cycle", "cosine", "step", "constant"), "--schedule")
    o.one_of(precision, ("auto", "fp32", "bf16", "tf32"), "--precision")
    if episodes % every:
        raise UsageError(
            f"`--episodes {episodes}` is no multiple of `--every {every}`",
            f"use `--episodes {-(-episodes // every) * every}`, or another `--every`",
        )
    if patience and not validation:
        raise UsageError("`--patience` needs a validation", "give `--validation 200`")
    o.empty_or(target, resume, overwrite)
    out.notes(quiet)
    from stochx.cli._fsc_trained import run_episodes

    document, rows = run_episodes(args, target, resume=resume, quiet=quiet, start=start)
    if document is not None:
        out.show(document, rows, COLUMNS, json)


COLUMNS = [
    out.Column("head", lambda row: str(row["head"])),
    out.Column("guide", lambda row: str(row["guide"])),
    out.Column("way", out.number("way", "{}")),
    out.Column("shot", out.number("shot", "{}")),
    out.Column("episodes", out.number("episodes", "{}")),
    out.Column("loss", out.number("loss", "{:.4f}")),
    out.Column("train accuracy", out.number("train_accuracy", "{:.4f}")),
    out.Column("validation", out.number("validation", "{:.4f}")),
    out.Column("kept after", out.number("kept", "{}")),
    out.Column("model", lambda row: str(row["model"])),
]
