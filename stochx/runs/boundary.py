"""Run `stochx boundary`: predict every point of the planes with every network, measure and draw them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stochx.engine.device import select_runtime
from stochx.engine.io.forms import below, form
from stochx.engine.io.lines import Record
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.passes import Report
from stochx.engine.sweep import sweep
from stochx.engine.world import World
from stochx.loading import load_data
from stochx.reports.boundary import Panel, Scene, draw_plane, palette, read_maps, save_maps, save_plane, short_names
from stochx.reports.evolution import animate, draw_evolution
from stochx.reports.figure import as_label
from stochx.reports.maps import file_names
from stochx.runs import Outcome
from stochx.runs._networks import open_network
from stochx.runs._planes import View, check_alike, make_views
from stochx.runs._results import exit_code, inference_facts, label_names, make_document, open_folder
from stochx.runs._samples import unseen_data, warn_of_trained
from stochx.runs.watch import Watch
from stochx.settings import Boundary
from stochx.tasks.boundary import BoundaryRecord, BoundaryRow, measure, outside, points_of, pooled_row, record
from stochx.tasks.known import trained_among
from stochx.tasks.sequential import Predictions

AXES = {
    "images": "L2 distance from image 1 towards image 2",
    "gradient": "sign of the loss gradient of {name}, in eps = {eps}",
    "attack": "towards the adversarial image of {name}, in eps = {eps}",
}


@dataclass(frozen=True)
class Job:
    """One plane with one network, and where its predictions are kept."""

    view: View
    name: str
    file: Path


@dataclass(frozen=True)
class Case:
    """Networks, by their arguments, and the planes to draw."""

    settings: Boundary
    models: Mapping[str, Classifier]
    views: Sequence[View]

    @property
    def eps(self) -> float | None:
        """The unit of coordinates; None for L2."""
        return None if self.settings.plane == "images" else self.settings.radius

    @property
    def first(self) -> Classifier:
        """The network that the others are compared with."""
        return self.models[self.settings.models[0]]

    @property
    def names(self) -> list[str]:
        """The networks' names in figures."""
        return short_names(list(self.models))

    @property
    def jobs(self) -> list[Job]:
        """Every plane with every network."""
        files = file_names([name.replace("/", "-") for name in self.names])
        return [
            Job(view, name, self.settings.folder / "planes" / f"{view.name}.{file}.npz")
            for view in self.views
            for name, file in zip(self.models, files, strict=True)
        ]


def run(settings: Boundary, world: World, watch: Watch) -> Outcome:
    """Predict all planes with all networks; write records, files and figures."""
    runtime = select_runtime(settings.device, "fp32", settings.rows)
    models = {text: open_network(text, settings, runtime.device).model for text in settings.models}
    check_alike(models)
    with runtime.scope():
        # Indices are those of the whole data set.
        data = unseen_data(settings.data, models) if settings.images is None else load_data(settings.data)
        views, failed = make_views(settings, models[settings.models[0]], data, watch)
        for name, model in models.items():
            items = {item.key: item.image for view in views for item in view.items}
            if model.trained is not None and world.leads:
                warn_of_trained(trained_among(items.items(), model.trained), len(items), name)
        case = Case(settings, models, views)
        folder = open_folder(settings, world, _kind(case))
        records = _records(case, folder, world, watch)
        if not world.leads:
            return Outcome(None)
        maps = [read_maps(job.file) for job in case.jobs]
        rows = _rows(case, records, maps)
        with watch.progress("drawing", len(views)) as advance:
            _draw(case, rows, maps, advance)
        machine = inference_facts(settings, case.first)
    results = [dataclasses.asdict(row) for row in rows]
    document = make_document(settings, watch, machine, results, failed)
    document["planes"] = [
        _describe(view) | {"labels": labels} for view, labels in zip(views, _labels(case, maps), strict=True)
    ]
    folder.finish([dataclasses.asdict(record) for record in records], document)
    return Outcome(document, exit_code(results, failed))


def _describe(view: View) -> Record:
    return {
        "name": view.name,
        "images": [item.key for item in view.items],
        "classes": [None if item.label is None else view.classes[item.label] for item in view.items],
        "length": view.plane.length,
    }


def _labels(case: Case, maps: Sequence[Predictions]) -> list[dict[str, str]]:
    """Return for each plane the names of the classes that appear in it, by the labels in its files."""
    count = len(case.models)
    planes = [maps[start : start + count] for start in range(0, len(maps), count)]
    present = [[k for each in plane for k in each.labels.flatten().tolist()] for plane in planes]
    return [label_names(case.first.classes, labels) for labels in present]


def _records(case: Case, folder: RunFolder, world: World, watch: Watch) -> list[BoundaryRecord]:
    """Return a record for each plane and network, in this order; predictions are written to files of their own."""
    settings, jobs = case.settings, case.jobs
    lines = [line for line in folder.lines if jobs[line["index"]].file.exists()]
    before = {line["index"]: BoundaryRecord(**line) for line in lines if _is_of(jobs[line["index"]], line)}
    left = [job.view.plane for index, job in enumerate(jobs) if index not in before]
    points = sum(points_of(plane, settings.resolution) for plane in left)
    with watch.progress("predicting", -(-points // world.size)) as advance:

        def work(places: range, _: None) -> list[BoundaryRecord]:
            (index,) = places
            job = jobs[index]
            sizes = settings.resolution, settings.draws, settings.seed
            result, predictions = record(
                index, (job.view.name, job.name), case.models[job.name], job.view.plane, *sizes, case.eps, advance
            )
            folder.begin()
            save_maps(job.file, predictions)
            return [result]

        def report(results: Sequence[BoundaryRecord], _: int) -> None:
            folder.append([dataclasses.asdict(result) for result in results])

        new = sweep(len(jobs), 1, lambda places: None, work, world, before, report)
    return sorted([*before.values(), *new], key=lambda result: result.index)


def _kind(case: Case) -> Any:
    """Return the kind of a record, of a plane of this run and classes of the networks."""
    return form(BoundaryRecord, index=below(len(case.jobs)), said=list[below(len(case.first.classes))])  # type: ignore[misc]


def _is_of(job: Job, line: Record) -> bool:
    """Return true for a record of a plane with these images and this network."""
    counts = {len(line[key]) for key in ("said", "distances", "distances_eps")}
    return (line["plane"], line["model"], counts) == (job.view.name, job.name, {len(job.view.items)})


def _rows(case: Case, records: Sequence[BoundaryRecord], maps: Sequence[Predictions]) -> list[BoundaryRow]:
    """Return a row for each plane and network; with several planes also one for each network over all."""
    count, classes = len(case.models), case.first.classes
    rows = [
        measure(result, predictions, maps[i - i % count], classes, case.models[result.model].noise != "none")
        for i, (result, predictions) in enumerate(zip(records, maps, strict=True))
    ]
    pooled = [pooled_row(rows[k::count], records[k::count]) for k in range(count)] if len(rows) > count else []
    return rows + pooled


def _draw(case: Case, rows: Sequence[BoundaryRow], maps: Sequence[Predictions], report: Report) -> None:
    """Write the planes' own files and, unless unwanted, all figures; `report` counts planes."""
    settings, count = case.settings, len(case.models)
    moving = settings.animate
    if moving is None:
        moving = count > 2 and len({model.arch for model in case.models.values()}) == 1
    colours = palette([predictions.labels for predictions in maps])
    for v, view in enumerate(case.views):
        part = slice(v * count, (v + 1) * count)
        present = palette([predictions.labels for predictions in maps[part]])
        scene = _scene(case, view, {k: colours[k] for k in present})
        save_plane(settings.folder / "planes" / f"{view.name}.npz", scene)
        if settings.figure:
            panels = [Panel(*parts) for parts in zip(case.names, rows[part], maps[part], strict=True)]
            draw_plane(settings.figure_file(settings.folder, f"plane-{view.name}"), scene, panels, settings.look)
            if moving:
                animate(settings.folder / f"plane-{view.name}.gif", scene, panels, settings.look)
        report(1)
    if moving and settings.figure:
        path = settings.figure_file(settings.folder, "evolution")
        draw_evolution(path, case.names, rows[-count:], settings.look)


def _scene(case: Case, view: View, colours: dict[int, str]) -> Scene:
    """Return what a plane's figures show beside the networks' predictions."""
    settings, plane = case.settings, view.plane
    a, b = plane.grid(settings.resolution)
    beyond, far = outside(plane.to(case.first.mean), settings.resolution)
    labels = [item.key if item.label is None else f"true: {view.classes[item.label]}" for item in view.items]
    if case.eps is None:
        pairs = zip(view.items, labels, strict=True)
        pictures = [(item.image, f"{n}, {label}") for n, (item, label) in enumerate(pairs, 1)]
        second = "L2 distance, towards image 3"
    else:
        ends = plane.origin + case.eps * plane.axes
        steps = [(end, f"+ eps {arrow}") for end, arrow in zip(ends, "→↑", strict=True)]
        pictures, second = [(view.items[0].image, labels[0]), *steps], "a random orthogonal direction, as long"
    unit = case.eps or 1.0
    first = AXES[settings.plane].format(name=as_label(case.names[0], 30), eps=settings.eps)
    return Scene(
        plane=plane,
        a=a / unit,
        b=b / unit,
        unit=unit,
        labels=(first, second),
        pictures=pictures,
        beyond=beyond,
        far=None if case.eps is None else far / unit,
        classes=case.first.classes,
        colours=colours,
    )
