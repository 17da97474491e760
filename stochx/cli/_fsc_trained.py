"""The part of `stochx fsc-train` that needs torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stochx.catalog import GUIDES
from stochx.cli import output
from stochx.cli._epochs import Course, Document, Row, machine_of, run_epochs
from stochx.cli._trained import plan_of
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.episodes import Domain, Episodes, Task, check_pool
from stochx.engine.fewshot.network import FewShotNetwork
from stochx.engine.world import process_group
from stochx.fewshot_networks import load_fewshot, make_fewshot, save_fewshot
from stochx.loading import install_noise, load_data
from stochx.reports.training import draw_curves
from stochx.tasks.fewshot import apart, domains_of, episodic, validation

FWT = "feature-wise:share=batch"

log = logging.getLogger("stochx")


def run_episodes(
    args: Mapping[str, Any], folder: Path, *, resume: bool, quiet: bool, start: float
) -> tuple[Document | None, list[Row]]:
    """Train, write `model.safetensors` and the run's files; nothing to print off rank 0."""
    task = Task(args["way"], args["shot"], args["queries"])
    with process_group() as world:
        runtime = select_runtime(args["device"], args["precision"])
        model = _first(args, task)
        preparation = model.backbone.model.preparation
        learnt = domains_of({text: load_data(text, "train") for text in args["data"]}, preparation)
        for domain in learnt:
            check_pool(domain.pool, task)
        model.facts["classes"] = model.facts.get("classes", {}) | {
            domain.pool.name: list(domain.pool.classes) for domain in learnt
        }
        held = _held(args, learnt, model, task) if args["validation"] else []
        if args["fwt"]:
            install_noise(model.backbone.model, FWT)
        model.to(runtime.device)
        items = Episodes(learnt, task, args["every"], args["seed"])
        lowered = episodic(model, GUIDES.make(args["guide"]), items, args["seed"])
        measure = validation(model, held, task, args["validation"], args["seed"]) if held else None
        best = "validation" if held else None
        course = Course(
            plan_of({**args, "epochs": args["episodes"] // args["every"]}),
            items,
            lowered,
            measure,
            best,
            lambda path: save_fewshot(path, model),
            unit="episodes",
        )
        with runtime.scope():
            run, rows = run_epochs(args, folder, model, course, world, quiet=quiet, resume=resume)
            machine = machine_of(args)
        if not world.leads:
            return None, []
        kept = max(rows, key=lambda row: row["validation"]) if held else rows[-1]
        draw_curves(folder / "curves.png", rows, kept if held else None, attacked=False)
        path = folder / "model.safetensors"
        save_fewshot(path, model)
        result = [
            {
                "head": model.head_text,
                **{key: args[key] for key in ("guide", "way", "shot", "queries")},
                "episodes": rows[-1]["epoch"] * args["every"],
                "loss": rows[-1]["loss"],
                "train_accuracy": rows[-1]["accuracy"],
                "validation": kept.get("validation"),
                "kept": kept["epoch"] * args["every"],
                "parameters": sum(p.numel() for p in model.parameters()),
                "model": str(path),
            }
        ]
        document = output.result("fsc-train", args, machine, result, time.perf_counter() - start)
        run.finish(rows, document)
        return document, result


def _first(args: Mapping[str, Any], task: Task) -> FewShotNetwork:
    """The network to train: a new one, or `init` with its weights; its facts tell this training."""
    facts = {key: args[key] for key in ("data", "guide", "way", "shot", "episodes", "fwt")}
    if args["init"] is None:
        return make_fewshot(
            args["backbone"], args["head"], task.way, args["size"], args["seed"], facts, arch=args["arch"]
        )
    model = load_fewshot(args["init"], arch=args["arch"]).requires_grad_(True)
    model.head.check_way(task.way)
    model.way = task.way
    model.facts |= facts | {"init": args["init"]}
    return model


def _held(args: Mapping[str, Any], learnt: list[Domain], model: FewShotNetwork, task: Task) -> list[Domain]:
    """The domains with validation classes of their own."""
    texts = args["data"]
    held = domains_of({text: load_data(text, "val") for text in texts}, model.backbone.model.preparation)
    found = []
    for one, other in zip(learnt, held, strict=True):
        if apart(one.pool, other.pool):
            check_pool(other.pool, task)
            found.append(other)
        else:
            log.warning("`%s` has no validation classes apart: it does not choose the best epoch", one.pool.name)
    return found
