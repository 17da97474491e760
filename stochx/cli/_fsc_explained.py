"""The part of `stochx explain --support` that needs torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from stochx.attributions.lrp import LRP
from stochx.catalog import ATTRIBUTIONS
from stochx.cli import output
from stochx.cli._epochs import Document, Row, machine_of
from stochx.engine.device import select_runtime
from stochx.engine.io.data import Data
from stochx.engine.io.images import Preparation, read, to_tensor
from stochx.engine.io.store import RunFolder
from stochx.errors import InputError, printable
from stochx.fewshot_networks import load_fewshot
from stochx.loading import load_data
from stochx.reports.maps import file_names
from stochx.reports.matches import draw_matches, save_matches
from stochx.tasks.explain_fewshot import Matched, explain_match

log = logging.getLogger("stochx")


def run_few_shot(args: Mapping[str, Any], *, resume: bool, quiet: bool, start: float) -> tuple[Document, list[Row]]:
    """Explain every image; writes its maps and its figure, and the run's files."""
    runtime = select_runtime(args["device"], args["precision"])
    model = load_fewshot(args["model"], arch=args["arch"], device=runtime.device)
    rules = cast(LRP, ATTRIBUTIONS.make(args["method"][0])).rules()
    preparation = model.backbone.model.preparation
    classes, support = _support(load_data(args["support"]), args["support"], preparation)
    run = RunFolder(Path(args["output"]), args, resume=resume)
    done = {record["image"] for record in run.records}
    names, rows = file_names(args["images"]), [row for row in run.records if row["image"] in args["images"]]
    with runtime.scope(), output.progress("explaining", len(names), quiet) as advance:
        for path, name in zip(args["images"], names, strict=True):
            if path not in done:
                query = to_tensor(preparation(read(Path(path))))
                found = explain_match(model, support.to(runtime.device), query.to(runtime.device), rules)
                found = Matched(*(part.cpu() for part in vars(found).values()))
                run.begin()
                save_matches(run.folder / f"{name}.matched.npz", found, classes)
                if args["figure"]:
                    draw_matches(run.folder / f"{name}.matched.png", found, query, support, classes)
                made = _rows(path, found, classes)
                run.append(made)
                rows += made
            advance(1)
        document = output.result("explain", args, machine_of(args), rows, time.perf_counter() - start)
    run.begin()
    run.finish(rows, document)
    return document, rows


def _support(data: Data, where: str, preparation: Preparation) -> tuple[list[str], Tensor]:
    """Class names, and as many images of each, (N, K, 3, H, W)."""
    if data.labels is None:
        raise InputError(f"`{where}` has no class folders", "put the images of each class into a folder of its name")
    places: dict[int, list[int]] = {}
    for i, label in enumerate(data.labels):
        places.setdefault(int(label), []).append(i)
    if len(places) < 2:
        raise InputError(f"`{where}` has one class, `{printable(data.classes[0])}`", "a match needs at least two")
    shots = min(map(len, places.values()))
    if any(len(some) > shots for some in places.values()):
        log.warning("`%s`: the first %d images of each class are taken, as many as the smallest one has", where, shots)
    images = [[data.item(i, preparation).image for i in places[k][:shots]] for k in sorted(places)]
    return [data.classes[k] for k in sorted(places)], torch.stack([torch.stack(some) for some in images])


def _rows(path: str, found: Matched, classes: list[str]) -> list[Row]:
    """One a class: its probability, the evidence for it, and the relevance that reached the query's pixels."""
    return [
        {
            "image": path,
            "class_name": name,
            "probability": float(found.probabilities[k]),
            "evidence": float(found.evidence[k]),
            "relevance": float(found.query[k].sum()),
        }
        for k, name in enumerate(classes)
    ]
