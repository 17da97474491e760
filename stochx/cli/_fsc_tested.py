"""The part of `stochx fsc-test` that needs torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stochx.cli import output
from stochx.cli._epochs import Document, Row, machine_of
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.episodes import Task
from stochx.engine.fewshot.network import FewShotNetwork, check_transductive
from stochx.engine.io.store import RunFolder
from stochx.engine.statistics import estimate, paired_p
from stochx.engine.world import World, process_group
from stochx.errors import printable
from stochx.fewshot_networks import load_fewshot
from stochx.loading import load_data
from stochx.tasks.fewshot import accuracies, domain_of

log = logging.getLogger("stochx")


def run_test(
    args: Mapping[str, Any], folder: Path, *, resume: bool, quiet: bool, start: float
) -> tuple[Document | None, list[Row]]:
    """Measure on every domain; `records.jsonl` gets a line for each domain and shot, with every episode's accuracy."""
    with process_group() as world:
        runtime = select_runtime(args["device"])
        files = [args["model"], *([args["versus"]] if args["versus"] else [])]
        models = [load_fewshot(file, arch=args["arch"], device=runtime.device) for file in files]
        if args["transductive"]:
            for model in models:
                check_transductive(model.head, model.head_text)
        run = RunFolder(folder, args, world.rank, resume)
        records = {record["domain"]: record for record in run.records}
        with (
            runtime.scope(),
            output.progress("domains", len(args["data"]), quiet or not world.leads) as advance,
        ):
            for text in args["data"]:
                if text not in records:
                    records[text] = {"domain": text, "episodes": _episodes(args, models, text, world)}
                    if world.leads:
                        run.append([records[text]])
                advance(1)
            machine = machine_of(args)
        if not world.leads:
            return None, []
        way = args["way"] or models[0].way
        inference = "transductive" if args["transductive"] else models[0].head.inference
        rows = [
            {"inference": inference}
            | _row(text, way, shot, args["queries"], [part[str(shot)] for part in records[text]["episodes"]])
            for text in args["data"]
            for shot in args["shot"]
        ]
        document = output.result("fsc-test", args, machine, rows, time.perf_counter() - start)
        run.finish([records[text] for text in args["data"]], document)
        return document, rows


def _episodes(
    args: Mapping[str, Any], models: list[FewShotNetwork], text: str, world: World
) -> list[dict[str, list[float]]]:
    """For each network the accuracy in every episode of a domain, by shot."""
    data, found = load_data(text, "test"), []
    for model in models:
        domain = domain_of(text, data, model.backbone.model.preparation)
        _warn_of_seen(model, text, domain.pool.classes)
        tasks = [Task(args["way"] or models[0].way, shot, args["queries"]) for shot in args["shot"]]
        values = accuracies(model, domain, tasks, args["episodes"], args["seed"], args["transductive"], world)
        found.append({str(task.shot): value.tolist() for task, value in zip(tasks, values, strict=True)})
    return found


def _warn_of_seen(model: FewShotNetwork, text: str, classes: tuple[str, ...]) -> None:
    learnt = {name for names in model.facts.get("classes", {}).values() for name in names}
    seen = [name for name in classes if name in learnt]
    if seen:
        log.warning(
            "`%s`: %d of %d classes have the name of a class of training, e.g. `%s`",
            text,
            len(seen),
            len(classes),
            printable(seen[0]),
        )


def _row(text: str, way: int, shot: int, queries: int, values: list[list[float]]) -> Row:
    ours = estimate(values[0])
    row: Row = {"domain": text, "way": way, "shot": shot, "queries": queries}
    row |= {"accuracy": ours.mean, "ci95": ours.ci95, "n": ours.n}
    if len(values) > 1:
        theirs, gaps = estimate(values[1]), [a - b for a, b in zip(*values, strict=True)]
        gap = estimate(gaps)
        row |= {"accuracy_versus": theirs.mean, "ci95_versus": theirs.ci95}
        row |= {"difference": gap.mean, "ci95_difference": gap.ci95, "p": paired_p(gaps)}
    return row
