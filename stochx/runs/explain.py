"""Run `stochx explain`: make maps, write and draw them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from stochx.catalog import ATTRIBUTIONS
from stochx.engine.device import select_runtime
from stochx.engine.io.forms import form
from stochx.engine.io.lines import Record
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import InputError
from stochx.input_files import exists
from stochx.reports.explanation import draw_explanation
from stochx.reports.inputs import save_input
from stochx.reports.maps import file_names, map_file, save_map
from stochx.runs import Outcome
from stochx.runs._networks import class_index, explained_network, image_sources
from stochx.runs._results import (
    earlier_records,
    exit_code,
    inference_facts,
    make_document,
    merge_records,
    open_folder,
    raise_lone_failure,
)
from stochx.runs.watch import Watch
from stochx.settings import Explain
from stochx.tasks.batches import Failed
from stochx.tasks.doubts import doubts
from stochx.tasks.explain import Explained, ExplanationRow, explain

log = logging.getLogger("stochx")


def run(settings: Explain, world: World, watch: Watch) -> Outcome:
    """Explain all images; a map for each image and method, and a figure for each image."""
    if len(settings.images) == 1 and not exists(settings.images[0]):
        raise InputError(f"no such image: `{settings.images[0]}`", "check the path")
    methods = {text: ATTRIBUTIONS.make(text) for text in settings.method}
    runtime = select_runtime(settings.device, settings.precision, settings.rows)
    model = explained_network(settings, runtime.device)
    sources, sample = image_sources(settings, model, world, watch)
    names = file_names([source.name for source in sources])
    folder = open_folder(settings, world, form(ExplanationRow, map=str))
    before = earlier_records(folder, [source.name for source in sources], [*methods]).complete(len(methods))
    with runtime.scope(), watch.progress("explaining", -(-len(sources) // world.size)) as advance:

        def report(results: list[ExplanationRow | Failed], count: int) -> None:
            if rows := _records(results, names):
                folder.append(rows)
            advance(count)

        results = explain(
            model,
            methods,
            sources,
            target=class_index(settings.target, model),
            seed=settings.seed,
            draws=settings.draws,
            world=world,
            done=before.images,
            keep=_keeper(settings, folder, model, names, watch),
            report=report,
        )
        machine = inference_facts(settings, model)
    failed = [result for result in results if isinstance(result, Failed)]
    rows = merge_records(before, _records(results, names), list(methods))
    if not world.leads:
        return Outcome(None, exit_code(rows, failed))
    raise_lone_failure(rows, failed)
    new = [result for result in results if isinstance(result, ExplanationRow)]
    for text in doubts(new, methods, settings.draws if model.noise != "none" else None):
        log.warning("%s", text)
    document = make_document(settings, watch, machine, [*rows], failed)
    document["sample"] = dataclasses.asdict(sample)
    if rows:
        folder.finish(rows, document)
    return Outcome(document, exit_code(rows, failed))


def _keeper(
    settings: Explain, folder: RunFolder, model: Classifier, names: Sequence[str], watch: Watch
) -> Callable[[Explained], None]:
    """Return what is done with the maps of an image: they are saved, drawn and shown as asked."""

    def keep(explained: Explained) -> None:
        folder.begin()
        name = names[explained.index]
        for row in explained.rows:
            save_map(folder.folder, name, row, explained.maps[row.method])
        if settings.figure:
            save_input(folder.folder / f"{name}.input.png", explained.image)
            path = settings.figure_file(folder.folder, f"{name}.explained")
            draw_explanation(path, explained, model.classes, settings.look)
        if settings.show:
            watch.preview(explained)

    return keep


def _records(results: Sequence[Any], names: Sequence[str]) -> list[Record]:
    """Return the rows of images that were explained, each with the name of its map's file."""
    rows = [row for row in results if isinstance(row, ExplanationRow)]
    return [dataclasses.asdict(row) | {"map": map_file(names[row.index], row.method)} for row in rows]
