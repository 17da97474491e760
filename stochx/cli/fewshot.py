"""Options of the few-shot commands, and what is checked before torch is there."""

from __future__ import annotations

from typing import Annotated

import typer

from stochx.catalog import DATASETS
from stochx.cli import options as o
from stochx.errors import UsageError

Domains = Annotated[
    list[str],
    typer.Option(
        "--data",
        metavar="NAME[:KEY=VALUE,...]",
        autocompletion=o.complete(DATASETS),
        help="Domain: a data set, a folder, a zip or an npz; repeat for several. One of: " + ", ".join(DATASETS) + ".",
        rich_help_panel=o.WHAT,
    ),
]
Way = Annotated[int, typer.Option(help="Classes of an episode.", rich_help_panel=o.METHOD)]
Queries = Annotated[int, typer.Option(help="Images of each class to be told, in an episode.", rich_help_panel=o.METHOD)]


def at_least(**counts: int) -> None:
    """Raises `UsageError` for a way below two, a shot or a number of queries below one."""
    for name, value in counts.items():
        least = 2 if name == "way" else 1
        if value < least:
            raise UsageError(f"`--{name} {value}` is too few", f"an episode needs at least {least}")


def distinct(texts: list[str]) -> None:
    """Raises `UsageError` for a domain that is named twice."""
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise UsageError(f"`--data {twice[0]}` is given twice", "name every domain once")
