"""The part of `stochx train` that needs torch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stochx.catalog import MODELS
from stochx.cli import output
from stochx.engine.device import choose
from stochx.engine.fit import Plan
from stochx.engine.store import Run
from stochx.engine.weights import save
from stochx.engine.world import joined
from stochx.loading import load_data
from stochx.tasks.train import Trained, accuracy, build, epochs

Document = dict[str, object]


def run_training(
    args: Mapping[str, Any], folder: Path, *, resume: bool, quiet: bool, start: float
) -> tuple[Document | None, list[dict[str, Any]]]:
    """Train, measure, write `model.safetensors` and the run's files; nothing to print off rank 0."""
    with joined() as world:
        runtime = choose(args["device"])
        train, test = load_data(args["data"], "train"), load_data(args["data"], "test")
        model = build(MODELS.make(args["arch"]), train.classes, args["seed"]).to(runtime.device)
        plan = Plan(args["epochs"], args["batch_size"], args["lr"], augment=args["augment"])
        run = Run(folder, args, world.rank, resume)
        run.begin()
        rows = [dict(record) for record in run.records]
        said = not quiet and world.leads
        with output.progress("epochs", args["epochs"], not said) as advance, runtime.scope():
            for epoch in epochs(model, train, plan, args["seed"], folder / "state.safetensors", resume, world):
                row = dataclasses.asdict(epoch)
                rows.append(row)
                run.append([row])
                advance(1)
                if said and not output.stderr().is_terminal:
                    output.stderr().print(
                        f"epoch {epoch.epoch}/{args['epochs']}  loss {epoch.loss:.4f}  "
                        f"accuracy {epoch.accuracy:.4f}  {epoch.images_per_second:.0f} images/s",
                        highlight=False,
                    )
            model.eval()
            if not world.leads:
                return None, []
            measured = accuracy(model, test)
        last = rows[-1]
        trained = Trained(last["epoch"], last["loss"], last["accuracy"], measured.mean, measured.ci95, measured.n)
        path = folder / "model.safetensors"
        save(path, model)
        result = [dataclasses.asdict(trained) | {"model": str(path)}]
        machine = {"seed": args["seed"], "device": str(runtime.device), "threads": torch.get_num_threads()}
        document = output.result("train", args, machine, result, time.perf_counter() - start)
        run.finish(rows, document)
        return document, result
