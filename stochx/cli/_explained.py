"""The part of `stochx explain` that needs torch: load, run, write the files."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stochx.attributions import Attribution
from stochx.catalog import suggest
from stochx.cli import output
from stochx.cli.preview import preview
from stochx.engine.classifier import Classifier
from stochx.engine.device import Runtime, choose
from stochx.engine.images import read, to_tensor
from stochx.engine.store import Run
from stochx.engine.world import World, joined
from stochx.errors import InputError, UsageError
from stochx.loading import load_data, load_model
from stochx.reports.maps import draw_explanation, file_names, save_map
from stochx.tasks.explain import Explained, Failed, Row, Source, explain

Document = dict[str, object]


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
    with joined() as world:
        runtime = choose(args["device"], args["precision"], batch_size)
        mean, std = normalisation
        model = load_model(args["model"], arch=args["arch"], mean=mean, std=std, device=runtime.device)
        if not args["crop"]:
            model.preparation = dataclasses.replace(model.preparation, whole=True)
        sources = _sources(args, model)
        target = None if args["target"] is None else _target(args["target"], model)
        with runtime.scope():
            return _run(args, methods, model, sources, target, runtime, world, resume, show, quiet, start)


def _run(
    args: Mapping[str, Any],
    methods: Mapping[str, Attribution],
    model: Classifier,
    sources: Sequence[Source],
    target: int | None,
    runtime: Runtime,
    world: World,
    resume: bool,
    show: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[dict[str, Any]], int]:
    run = Run(Path(args["output"]), args, world.rank, resume)
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

        def report(found: list[Row | Failed], items: int) -> None:
            rows = [_record(row, names[row.index]) for row in found if isinstance(row, Row)]
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
    new = [row for row in found if isinstance(row, Row)]
    failed = [row for row in found if isinstance(row, Failed)]
    again = {row.index for row in new}
    rows = [r for r in before if r["index"] not in again] + [_record(row, names[row.index]) for row in new]
    order = list(methods)
    rows.sort(key=lambda r: (r["index"], order.index(r["method"])))
    if not world.leads:
        return None, [], _code(rows, failed)
    if not rows and len(failed) == 1:
        raise failed[0].error
    for failure in failed:
        output.complain(str(failure.error), failure.error.hint)
    machine = {
        "seed": args["seed"],
        "device": str(runtime.device),
        "precision": runtime.precision,
        "batch_size": runtime.batch_size or "auto",
        "threads": torch.get_num_threads(),
        "noise": model.noise,
    }
    document = output.result("explain", args, machine, rows, time.perf_counter() - start)
    document["failed"] = [{"image": f.image, "error": str(f.error), "hint": f.error.hint} for f in failed]
    if rows:
        run.begin()
        run.finish(rows, document)
    return document, rows, _code(rows, failed)


def _code(rows: Sequence[object], failed: Sequence[Failed]) -> int:
    """0 if all is well, 1 if some images failed; if all did, 2 where the input is to blame."""
    if not failed:
        return 0
    return 1 if rows else min(2, *(f.error.exit_code for f in failed), 2)


def _record(row: Row, name: str) -> dict[str, Any]:
    record = dataclasses.asdict(row)
    record["map"] = f"{name}.{file_names([row.method])[0]}.npz"
    return record


def _sources(args: Mapping[str, Any], model: Classifier) -> list[Source]:
    limit = args["limit"]
    sources = [_file(Path(path), model) for path in args["images"]]
    if args["data"] is not None:
        data = load_data(args["data"])

        def item(i: int) -> Source:
            def load() -> tuple[str, torch.Tensor]:
                found = data.item(i, model.preparation)
                return found.key, found.image

            return Source(data.keys[i], load)

        sources += [item(i) for i in range(min(len(data), limit or len(data)))]
    if not sources:
        raise InputError(f"`{args['data']}` holds no images", "check the path")
    return sources[:limit]


def _file(path: Path, model: Classifier) -> Source:
    def load() -> tuple[str, torch.Tensor]:
        image = model.preparation(read(path))
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest(), to_tensor(image)

    return Source(str(path), load)


def _target(text: str, model: Classifier) -> int:
    if text.lstrip("-").isdecimal():
        if not 0 <= int(text) < len(model.classes):
            raise UsageError(
                f"there is no class {text}: the model has {len(model.classes)}", f"use 0 to {len(model.classes) - 1}"
            )
        return int(text)
    if text not in model.classes:
        raise UsageError(f"the model has no class `{text}`", suggest(text, model.classes) if len(text) < 40 else "")
    return model.classes.index(text)
