"""Run `stochx fsc-explain`: relevance of a query and of the support, for each class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch import Tensor

from stochx.attributions.lrp import LRP
from stochx.catalog import ATTRIBUTIONS
from stochx.engine.device import select_runtime
from stochx.engine.io.data import Data
from stochx.engine.io.forms import form
from stochx.engine.io.images import Preparation, read
from stochx.engine.io.lines import Record
from stochx.engine.world import World
from stochx.errors import InputError, printable
from stochx.fewshot_networks import load_fewshot
from stochx.loading import load_data
from stochx.reports.inputs import save_input, save_sheet
from stochx.reports.maps import file_names
from stochx.reports.matches import draw_matches, save_matches
from stochx.runs import Outcome
from stochx.runs._results import exit_code, machine_facts, make_document, open_folder, raise_lone_failure
from stochx.runs.watch import Watch
from stochx.settings import FscExplain
from stochx.tasks.batches import Failed
from stochx.tasks.explain_fewshot import Matched, explain_match
from stochx.tasks.reading import stack

log = logging.getLogger("stochx")


class MatchRow(TypedDict):
    """A class that a query may be of, as JSON."""

    image: str
    class_name: str
    probability: float
    evidence: float
    relevance: float


def run(settings: FscExplain, world: World, watch: Watch) -> Outcome:
    """Explain every query: its maps, its figure, and a row for each class."""
    runtime = select_runtime(settings.device, settings.precision)
    model = load_fewshot(settings.model, arch=settings.arch, device=runtime.device)
    rules = cast(LRP, ATTRIBUTIONS.make(settings.method)).rules()
    preparation = model.backbone.model.preparation
    classes, support, unusable = _support(load_data(settings.support), settings.support, preparation)
    folder = open_folder(settings, world, form(MatchRow))
    earlier = [*folder.lines]
    told = Counter(record["image"] for record in earlier)
    done = {image for image in settings.images if told[image] and not told[image] % len(classes)}  # no row was cut off
    rows = [record for record in earlier if record["image"] in done]
    names, failed = file_names(settings.images), [*unusable]
    with runtime.scope(), watch.progress("explaining", len(names)) as advance:
        for index, (path, name) in enumerate(zip(settings.images, names, strict=True)):
            if path not in done:
                try:
                    query = preparation.tensor(read(Path(path)))
                except InputError as error:
                    failed.append(Failed(index, path, error))
                else:
                    matched = explain_match(model, support.to(runtime.device), query.to(runtime.device), rules)
                    matched = Matched(*(part.cpu() for part in vars(matched).values()))
                    folder.begin()
                    save_matches(folder.folder / f"{name}.matched.npz", matched, classes)
                    if settings.figure:
                        save_input(folder.folder / f"{name}.query.png", query)
                        save_sheet(folder.folder / "support.png", support)
                        file = settings.figure_file(folder.folder, f"{name}.matched")
                        draw_matches(file, matched, query, support, classes, settings.look)
                    records = _rows(path, matched, classes)
                    folder.append(records)
                    rows += records
            advance(1)
        raise_lone_failure(rows, failed)
        document = make_document(settings, watch, machine_facts(settings), rows, failed)
    if rows:
        folder.finish(rows, document)
    return Outcome(document, exit_code(rows, failed))


def _support(data: Data, where: str, preparation: Preparation) -> tuple[list[str], Tensor, Sequence[Failed]]:
    """Return class names, equally many images of each, (N, K, C, H, W), and those that could not be read."""
    images = stack(data, preparation)
    places = {k: (images.labels == k).nonzero().flatten() for k in sorted({*images.labels.tolist()})}
    if len(places) < 2:
        name = printable(data.classes[next(iter(places))])
        raise InputError(f"`{where}` has one class, `{name}`", "a match needs at least two")
    shots = min(map(len, places.values()))
    if any(len(indices) > shots for indices in places.values()):
        log.warning("`%s`: only the first %d images of each class are used, as many as the smallest has", where, shots)
    support = torch.stack([images.pixels[indices[:shots]].float() / 255 for indices in places.values()])
    return [data.classes[k] for k in places], support, images.failed


def _rows(path: str, matched: Matched, classes: list[str]) -> list[Record]:
    """Return a row for each class: probability, evidence, and the relevance that reaches the query's pixels."""
    return [
        {
            "image": path,
            "class_name": name,
            "probability": float(matched.probabilities[k]),
            "evidence": float(matched.evidence[k]),
            "relevance": float(matched.query[k].sum()),
        }
        for k, name in enumerate(classes)
    ]
