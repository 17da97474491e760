"""Runs: a command's settings become live objects, a task works on them, its results go into a run folder.

`execute` does what a command does, silently; the command line only adds a `Watch` and prints the outcome.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stochx.errors import InputError, UsageError
from stochx.runs.document import Document, Results
from stochx.runs.watch import Quiet, Watch
from stochx.settings import module_of
from stochx.settings.base import Settings
from stochx.settings.folders import Output, RunFiles

if TYPE_CHECKING:
    from stochx.engine.world import World

__all__ = ["Document", "Outcome", "Quiet", "Results", "Watch", "execute", "run"]


@dataclass(frozen=True)
class Outcome:
    """The document of a finished run, None off the leading rank, and its exit code."""

    document: Document | None
    code: int = 0


def execute(settings: Settings, watch: Watch) -> Outcome:
    """Run a command; raises `StochxError` for what a user can fix."""
    settings.prepare()
    _check_temporary_folder()
    from stochx.engine.modes import plain_modes  # now, as they import torch
    from stochx.engine.passes import counting
    from stochx.engine.world import process_group
    from stochx.runs._claim import claimed

    if isinstance(settings, RunFiles) and settings.dry_run:
        from stochx.runs._estimate import estimate

        with plain_modes(), process_group() as world:
            return Outcome(estimate(settings, world, watch))
    work = command(settings)  # imports what it needs before there is something to save
    with plain_modes(), process_group() as world, claimed(settings, world) as settled:
        watch = watch if world.leads else Quiet()
        if isinstance(settled, Output):
            watch.opened(settled.folder)
        with counting(watch.passed):
            return work(settled, world, watch)


def command(settings: Settings) -> Callable[[Settings, World, Watch], Outcome]:
    """Return the function that runs the command of these settings."""
    run: Callable[[Settings, World, Watch], Outcome]
    run = importlib.import_module(f"stochx.runs.{module_of(settings.command)}").run
    return run


def _check_temporary_folder() -> None:
    """Raise `InputError` where nothing can be written temporarily: torch does not even start there."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        hint = "set TMPDIR to a folder that can be written to"
        raise InputError("there is no folder for temporary files", hint) from None


def run(settings: Settings) -> Results:
    """Run `stochx COMMAND` with these settings, and return the document that `--json` prints; notebooks show its table.

    Under `torchrun` every rank calls it, and all but the leading one get an empty document. Raises `StochxError`.
    """
    if not isinstance(settings, Settings):
        raise UsageError(f"`run` takes settings, got `{settings!r}`", "e.g. `stochx.settings.Attack(model=...)`")
    return Results(execute(settings, Quiet()).document or {})
