"""Run `stochx demo`: the commands of the demonstration, one after the other, each in a folder of its own."""

from __future__ import annotations

import dataclasses

import torch

from stochx.engine.world import World
from stochx.errors import UsageError
from stochx.runs import Outcome, command
from stochx.runs._steps import NEXT, Step, steps
from stochx.runs.document import Document, compose
from stochx.runs.folders import RESULT, read_run
from stochx.runs.watch import Watch
from stochx.settings import Demo
from stochx.settings.argv import shell_line
from stochx.settings.base import Settings
from stochx.settings.folders import Resumable
from stochx.tables.demo import finding

Row = dict[str, object]


def run(settings: Demo, world: World, watch: Watch) -> Outcome:
    """Run every step, and tell what it shows; with `resume`, finished ones are told only."""
    if world.size > 1:
        raise UsageError("the demo runs in one process", "start it without `torchrun`")
    documents: dict[str, Document] = {}
    rows, codes = list[Row](), [0]
    planned = steps(settings)
    for number, step in enumerate(planned, start=1):
        watch.begin_step(f"{number}/{len(planned)}", step.title, step.why, shell_line(step.settings))
        document = _finished(step.settings) if settings.resume else None
        if document is None:
            outcome = command(step.settings)(_entered(step, settings), world, watch.restarted())
            assert outcome.document is not None, "this process leads"
            document = outcome.document
            codes.append(int(outcome.code == 1))
        documents[step.name] = document
        text = finding(step.name, documents)
        watch.end_step(text, document["seconds"])
        rows.append(_row(step, text, document))
    machine = {"seed": settings.seed, "device": "cpu", "threads": torch.get_num_threads()}
    result = compose(settings.command, settings.recorded(), machine, rows, watch.seconds)
    return Outcome(result | {"next": [shell_line(each) for each in NEXT]}, max(codes))


def _row(step: Step, text: str, document: Document) -> Row:
    return {
        "step": step.name,
        "title": step.title,
        "finding": text,
        "typed": shell_line(step.settings),
        "output": str(document["args"]["output"]),
        "seconds": document["seconds"],
    }


def _entered(step: Step, settings: Demo) -> Settings:
    """Return a step's settings with the demo's leave to replace files, or to continue a run."""
    if not isinstance(step.settings, Resumable):
        return step.settings
    return dataclasses.replace(step.settings, resume=settings.resume, overwrite=settings.overwrite)


def _finished(step: Settings) -> Document | None:
    """Return the document of a step that ended in an earlier run, with the same settings."""
    file = step.folder / RESULT if isinstance(step, Resumable) else None
    if file is None or not file.is_file():
        return None
    document = read_run(file).document
    asked = {key: value for key, value in step.recorded().items() if value is not None}
    return document if document["args"] == asked else None
