"""The part of `stochx boundary` that needs torch: load, look at the planes, write the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stochx.cli import output
from stochx.cli._outcome import Document, document
from stochx.cli._outcome import Record as Line
from stochx.cli._planes import View, check_alike, views_of
from stochx.engine.device import select_runtime
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.sweep import sweep
from stochx.engine.world import World, process_group
from stochx.loading import load_data, load_model
from stochx.reports.boundary import Panel, Scene, draw_plane, palette, read_maps, save_maps, save_plane, short_names
from stochx.reports.evolution import animate, draw_evolution
from stochx.reports.maps import file_names
from stochx.tasks.boundary import BoundaryRecord, BoundaryRow, Predictions, measure, outside, pooled_row, record

AXES = {
    "images": "L2 distance from image 1 towards image 2",
    "gradient": "sign of the loss gradient of {name}, in eps = {eps}",
    "attack": "towards the adversarial image of {name}, in eps = {eps}",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What was asked for: networks by their arguments, planes, the unit of coordinates (None for L2), the folder."""

    args: Mapping[str, Any]
    models: Mapping[str, Classifier]
    views: Sequence[View]
    eps: float | None
    folder: Path

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        return next(iter(self.models.values())).classes

    @property
    def names(self) -> list[str]:
        """The networks' names in figures."""
        return short_names(list(self.models))

    @property
    def jobs(self) -> list[tuple[View, str, Path]]:
        """Every plane with every network, and where its maps are kept."""
        files = file_names([name.replace("/", "-") for name in self.names])
        return [
            (view, name, self.folder / "planes" / f"{view.name}.{file}.npz")
            for view in self.views
            for name, file in zip(self.models, files, strict=True)
        ]


def run_boundary(
    args: Mapping[str, Any],
    eps: float,
    normalisation: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
    batch_size: int,
    *,
    resume: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[Line]]:
    """Look at all planes with all networks and write everything; nothing to print off rank 0."""
    mean, std = normalisation
    with process_group() as world:
        runtime = select_runtime(args["device"], "fp32", batch_size)
        models = {
            text: load_model(text, arch=args["arch"], mean=mean, std=std, device=runtime.device)
            for text in args["models"]
        }
        check_alike(models)
        with runtime.scope():
            views = views_of(args, eps, models[args["models"][0]], load_data(args["data"]))
            unit = eps if args["plane"] != "images" else None
            run = RunFolder(Path(args["output"]), args, world.rank, resume)
            case = Case(args, models, views, unit, run.folder)
            records = _records(case, run, world, quiet)
            if not world.leads:
                return None, []
            maps = [read_maps(file) for _, _, file in case.jobs]
            rows = _rows(case, records, maps)
            _draw(case, rows, maps)
            lines = [dataclasses.asdict(row) for row in rows]
            made = document("boundary", args, models[args["models"][0]], lines, [], start)
        made["planes"] = [
            {
                "name": view.name,
                "images": [item.key for item in view.items],
                "classes": [None if item.label is None else view.classes[item.label] for item in view.items],
                "length": view.plane.length,
            }
            for view in views
        ]
        run.finish([dataclasses.asdict(one) for one in records], made)
        return made, lines


def _records(case: Case, run: RunFolder, world: World, quiet: bool) -> list[BoundaryRecord]:
    """One for each plane and network, in this order; their maps are written to files of their own."""
    args, jobs = case.args, case.jobs
    before = {line["index"]: BoundaryRecord(**line) for line in run.records if jobs[line["index"]][2].exists()}
    cells = sum(len(a) * len(b) for a, b in (view.plane.grid(args["resolution"]) for view, _, _ in jobs))
    with output.progress("looking", -(-cells // world.size), quiet or not world.leads) as advance:

        def work(places: range, _: None) -> list[BoundaryRecord]:
            (index,) = places
            view, name, file = jobs[index]
            model, sizes = case.models[name], (args["resolution"], args["draws"], args["seed"])
            found, said = record(index, (view.name, name), model, view.plane, *sizes, case.eps, advance)
            run.begin()
            save_maps(file, said)
            return [found]

        def report(found: Sequence[BoundaryRecord], _: int) -> None:
            run.append([dataclasses.asdict(one) for one in found])

        new = sweep(len(jobs), 1, lambda places: None, work, world, before, report)
    return sorted([*before.values(), *new], key=lambda one: one.index)


def _rows(case: Case, records: Sequence[BoundaryRecord], maps: Sequence[Predictions]) -> list[BoundaryRow]:
    """A row for each plane and network; with several planes also one for each network over all."""
    count = len(case.models)
    rows = [
        measure(one, said, maps[i - i % count], case.classes, case.models[one.model].noise != "none")
        for i, (one, said) in enumerate(zip(records, maps, strict=True))
    ]
    together = [pooled_row(rows[k::count], records[k::count]) for k in range(count)] if len(rows) > count else []
    return rows + together


def _draw(case: Case, rows: Sequence[BoundaryRow], maps: Sequence[Predictions]) -> None:
    """The planes' own files and, unless unwanted, all figures."""
    count, folder = len(case.models), case.folder
    moving = case.args["animate"]
    if moving is None:
        moving = count > 2 and len({model.arch for model in case.models.values()}) == 1
    colours = palette([said.labels for said in maps])
    for v, view in enumerate(case.views):
        some = slice(v * count, (v + 1) * count)
        there = palette([said.labels for said in maps[some]])
        scene = _scene(case, view, {k: colours[k] for k in there})
        save_plane(folder / "planes" / f"{view.name}.npz", scene)
        if not case.args["figure"]:
            continue
        panels = [Panel(*parts) for parts in zip(case.names, rows[some], maps[some], strict=True)]
        draw_plane(folder / f"plane-{view.name}.png", scene, panels)
        if moving:
            animate(folder / f"plane-{view.name}.gif", scene, panels)
    if moving and case.args["figure"]:
        draw_evolution(folder / "evolution.png", case.names, rows[-count:])


def _scene(case: Case, view: View, colours: dict[int, str]) -> Scene:
    plane = view.plane
    a, b = plane.grid(case.args["resolution"])
    beyond, far = outside(plane.to(case.models[case.args["models"][0]].mean), case.args["resolution"])
    labels = [item.key if item.label is None else view.classes[item.label] for item in view.items]
    if case.eps is None:
        pairs = zip(view.items, labels, strict=True)
        pictures = [(item.image, f"{n}: {label}") for n, (item, label) in enumerate(pairs, 1)]
        second = "L2 distance, towards image 3"
    else:
        ends = plane.origin + case.eps * plane.axes
        steps = [(end, f"+ eps {way}") for end, way in zip(ends, "→↑", strict=True)]
        pictures, second = [(view.items[0].image, labels[0]), *steps], "a random orthogonal direction, as long"
    unit = case.eps or 1.0
    first = AXES[case.args["plane"]].format(name=case.names[0], eps=case.args["eps"])
    return Scene(
        plane=plane,
        a=a / unit,
        b=b / unit,
        unit=unit,
        labels=(first, second),
        pictures=pictures,
        beyond=beyond,
        far=None if case.eps is None else far / unit,
        classes=case.classes,
        colours=colours,
    )
