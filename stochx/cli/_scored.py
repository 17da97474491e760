"""The part of `stochx score` that needs torch: load, measure, write the files."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stochx.attributions import Attribution
from stochx.cli import output
from stochx.cli._outcome import Document, Record, complain, document, exit_code, merged
from stochx.cli._sources import sources_of, target_of
from stochx.engine.device import select_runtime
from stochx.engine.io.mapfile import MapFile, find_maps, read_map
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World, process_group
from stochx.errors import InputError
from stochx.loading import load_model
from stochx.metrics import Metric
from stochx.reports.maps import file_names
from stochx.reports.scores import draw_curves, draw_gallery, save_strip
from stochx.tasks.batches import Failed, Source
from stochx.tasks.score import Scored, check_needs, score, summarise
from stochx.tasks.score_maps import MapStore, score_maps

log = logging.getLogger("stochx")

HINTS = {
    "model": "name the images beside `--maps`, and the network with `--model`",
    "explain": "leave out `--maps`, and name methods with `--method`",
    "mask": "use a data set with masks, such as `--data shapes`",
}


def run_score(
    args: Mapping[str, Any],
    methods: Mapping[str, Attribution],
    metrics: Mapping[str, Metric],
    normalisation: tuple[tuple[float, ...] | None, tuple[float, ...] | None],
    batch_size: int,
    gates: Sequence[tuple[str, float, bool]],
    *,
    resume: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[Record], int]:
    """Measure and write everything; the document, its rows and the exit code (no document off rank 0)."""
    shelf = None if args["maps"] is None else _shelf(Path(args["maps"]))
    pictured = bool(args["images"]) or args["data"] is not None
    check_needs(metrics, _given(shelf is None, pictured), HINTS)
    with process_group() as world:
        runtime = select_runtime(args["device"], args["precision"], batch_size)
        model = None
        if pictured:
            mean, std = normalisation
            model = load_model(args["model"], arch=args["arch"], mean=mean, std=std, device=runtime.device)
            if not args["crop"]:
                model.preparation = dataclasses.replace(model.preparation, whole=True)
        with runtime.scope():
            return _run(args, methods, metrics, model, shelf, gates, world, resume, quiet, start)


def _given(makes_maps: bool, pictured: bool) -> set[str]:
    return ({"model", "mask"} if pictured else set()) | ({"explain"} if makes_maps else set())


def _run(
    args: Mapping[str, Any],
    methods: Mapping[str, Attribution],
    metrics: Mapping[str, Metric],
    model: Classifier | None,
    shelf: MapStore | None,
    gates: Sequence[tuple[str, float, bool]],
    world: World,
    resume: bool,
    quiet: bool,
    start: float,
) -> tuple[Document | None, list[Record], int]:
    sources = [] if model is None else _fitting(sources_of(args, model), shelf)
    if sources and any("mask" in metric.needs for metric in metrics.values()):
        item = sources[0].read()
        check_needs(metrics, {"model", "explain"} | (set() if item.mask is None else {"mask"}), HINTS)
    names = [source.name for source in sources] or list(shelf.places if shelf else [])
    labels = list(methods) or (shelf.methods if shelf else [])
    run = RunFolder(Path(args["output"]), args, world.rank, resume)
    before = [record for record in run.records if record["index"] < len(names)]
    files = file_names(names)

    def keep(scored: Scored) -> None:
        run.begin()
        if args["figure"] and scored.image is not None:
            save_strip(run.folder / "strips" / f"{files[scored.index]}.png", scored)

    with output.progress("scoring", -(-len(names) // world.size), quiet or not world.leads) as advance:

        def report(found: Sequence[Any], items: int) -> None:
            records = [dataclasses.asdict(one) for one in found if not isinstance(one, Failed)]
            if records:
                run.append(records)
            advance(items)

        settings: dict[str, Any] = {
            "seed": args["seed"],
            "world": world,
            "done": {record["index"] for record in before},
            "report": report,
        }
        found: Sequence[Any]
        if model is None:
            assert shelf is not None
            found = score_maps(shelf, metrics, **settings)
        else:
            found = score(
                model,
                methods,
                metrics,
                sources,
                stored=shelf.explanations if shelf else None,
                target=target_of(args["target"], model),
                draws=args["draws"],
                keep=keep,
                **settings,
            )
    failed = [one for one in found if isinstance(one, Failed)]
    new = [dataclasses.asdict(one) for one in found if not isinstance(one, Failed)]
    records = merged(before, new, labels)
    if not world.leads:
        return None, [], exit_code(records, failed)
    complain(records, failed)
    rows = [dataclasses.asdict(row) for row in summarise(records, labels, metrics)]
    _tell_exclusions(rows)
    made = document("score", args, model, rows, failed, start)
    made["images"] = len({record["index"] for record in records})
    made["gates"] = missed = _missed(rows, gates)
    if records:
        run.begin()
        run.finish(records, made)
        if args["figure"]:
            draw_curves(run.folder / "curves.png", records, labels, metrics)
            draw_gallery(run.folder / "gallery.png", run.folder / "strips", records, labels, files)
    for gate in (g for g in missed if g["missed"]):
        side = "above" if gate["over"] else "below"
        mean = "no mean" if gate["mean"] is None else f"a mean of {gate['mean']:.4g}, {side} {gate['bound']:g}"
        output.miss(f"`{gate['method']}` has {mean} for {gate['metric']}")
    code = exit_code(records, failed)
    return made, rows, code or (3 if any(gate["missed"] for gate in missed) else 0)


def _missed(rows: Sequence[Record], gates: Sequence[tuple[str, float, bool]]) -> list[Record]:
    """Each gate for each method; a mean that is not there misses it."""
    found = []
    for metric, bound, over in gates:
        for row in (row for row in rows if row["metric"] == metric):
            mean = row["mean"]
            missed = mean is None or (mean > bound if over else mean < bound)
            found.append(
                {
                    "metric": metric,
                    "method": row["method"],
                    "mean": mean,
                    "bound": bound,
                    "over": over,
                    "missed": missed,
                }
            )
    return found


def _tell_exclusions(rows: Sequence[Record]) -> None:
    for metric in dict.fromkeys(row["metric"] for row in rows):
        row = next(row for row in rows if row["metric"] == metric)
        if row["excluded"]:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in row["why"].items())
            log.warning("`%s`: %d images are left out for all methods: %s", metric, row["excluded"], reasons)


def _shelf(root: Path) -> MapStore:
    """The maps below a folder, by image and method; the files' facts are read now, their arrays when needed."""
    places: dict[str, dict[str, Callable[[], MapFile]]] = {}
    for path in find_maps(root):
        stored = read_map(path, root)
        there = places.setdefault(stored.image, {})
        if stored.method in there:
            raise InputError(
                f"`{path}` is a second map of `{stored.image}` by `{stored.method}`", "put each method into a folder"
            )
        there[stored.method] = partial(read_map, path, root)
    return MapStore(places)


def _fitting(sources: list[Source], shelf: MapStore | None) -> list[Source]:
    """The images that have maps, with the classes that these explain."""
    if shelf is None:
        return sources
    found = []
    for source in sources:
        there = shelf.of(source.name)
        if not there:
            log.warning("`%s` has no map and is left out", source.name)
            continue
        targets = {open_map().target for open_map in there.values()} - {None}
        if len(targets) > 1:
            raise InputError(f"the maps of `{source.name}` explain different classes", "score them apart")
        found.append(dataclasses.replace(source, target=targets.pop() if targets else None))
    if not found:
        raise InputError("none of the images has a map", f"the maps belong to `{next(iter(shelf.places))}` and others")
    return found
