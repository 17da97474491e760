"""The part of `stochx explain` that needs torch: load, run, write the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stochx.attributions import Attribution
from stochx.cli import output
from stochx.cli._outcome import Document, complain, document, exit_code, merged
from stochx.cli._sources import sources_of, target_of
from stochx.cli.preview import preview
from stochx.engine.device import select_runtime
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World, process_group
from stochx.errors import InputError
from stochx.loading import load_model
from stochx.reports.maps import draw_explanation, file_names, save_map
from stochx.tasks.batches import Failed, Source
from stochx.tasks.explain import Explained, ExplanationRow, explain


def run_explain(
    args: Mapping[str, Any],
    methods: Mapping[str, Attribution],
    normalisation: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
    batch_size: int,
    *,
    resume: bool,
    show: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[dict[str, Any]], int]:
    """Explain and write everything; the document, its rows and the exit code (no document off rank 0)."""
    for path in args["images"]:
        if not Path(path).exists() and len(args["images"]) == 1:
            raise InputError(f"no such image: `{path}`", "check the path")
    with process_group() as world:
        runtime = select_runtime(args["device"], args["precision"], batch_size)
        mean, std = normalisation
        model = load_model(args["model"], arch=args["arch"], mean=mean, std=std, device=runtime.device)
        if not args["crop"]:
            model.preparation = dataclasses.replace(model.preparation, whole=True)
        sources = sources_of(args, model)
        target = target_of(args["target"], model)
        with runtime.scope():
            return _run(args, methods, model, sources, target, world, resume, show, quiet, start)


def _run(
    args: Mapping[str, Any],
    methods: Mapping[str, Attribution],
    model: Classifier,
    sources: Sequence[Source],
    target: int | None,
    world: World,
    resume: bool,
    show: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[dict[str, Any]], int]:
    run = RunFolder(Path(args["output"]), args, world.rank, resume)
    before = [record for record in run.records if record["index"] < len(sources)]
    done = {record["index"] for record in before}
    names = file_names([source.name for source in sources])

    def keep(explained: Explained) -> None:
        run.begin()
        for row in explained.rows:
            save_map(run.folder, names[explained.index], row, explained.maps[row.method])
        if args["figure"]:
            draw_explanation(run.folder / f"{names[explained.index]}.explained.png", explained, model.classes)
        if show:
            preview(explained)

    with output.progress("explaining", -(-len(sources) // world.size), quiet or not world.leads) as advance:

        def report(found: list[ExplanationRow | Failed], items: int) -> None:
            rows = [_record(row, names[row.index]) for row in found if isinstance(row, ExplanationRow)]
            if rows:
                run.append(rows)
            advance(items)

        found = explain(
            model,
            methods,
            sources,
            target=target,
            seed=args["seed"],
            draws=args["draws"],
            world=world,
            done=done,
            keep=keep,
            report=report,
        )
    new = [_record(row, names[row.index]) for row in found if isinstance(row, ExplanationRow)]
    failed = [row for row in found if isinstance(row, Failed)]
    rows = merged(before, new, list(methods))
    if not world.leads:
        return None, [], exit_code(rows, failed)
    complain(rows, failed)
    made = document("explain", args, model, rows, failed, start)
    if rows:
        run.begin()
        run.finish(rows, made)
    return made, rows, exit_code(rows, failed)


def _record(row: ExplanationRow, name: str) -> dict[str, Any]:
    record = dataclasses.asdict(row)
    record["map"] = f"{name}.{file_names([row.method])[0]}.npz"
    return record
