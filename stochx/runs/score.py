"""Run `stochx score`: measure maps, compare methods, write and draw the scores."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired

from stochx.attributions import is_signed
from stochx.catalog import ATTRIBUTIONS, METRICS
from stochx.engine.device import select_runtime
from stochx.engine.io.data import Item
from stochx.engine.io.forms import form, keyed
from stochx.engine.io.lines import Record
from stochx.engine.io.records import Records
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import UsageError
from stochx.metrics import Metric, Need
from stochx.reports.maps import file_names
from stochx.reports.scores import draw_curves, draw_gallery, save_strip
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
from stochx.runs._samples import sample_of
from stochx.runs._stored_maps import open_maps, with_maps
from stochx.runs.watch import Watch
from stochx.settings import Score
from stochx.settings.score import Gate, removal_groups
from stochx.tasks.batches import Failed, Source, read_all
from stochx.tasks.comparison import MethodPower, powers, summarise
from stochx.tasks.doubts import Accuracy, doubts, fewest_images
from stochx.tasks.removals import reorderings
from stochx.tasks.score import Scored, ScoreRecord, check_needs, score
from stochx.tasks.score_maps import MapStore, score_maps
from stochx.tasks.trials import Trials
from stochx.tasks.trust import LEAST_DEGRADATION, trust
from stochx.tasks.values import Value

log = logging.getLogger("stochx")

HINTS = {
    "model": "name the images beside `--maps`, and the network with `--model`",
    "explain": "leave out `--maps`, and name methods with `--method`",
    "mask": "use a data set with masks, such as `--data shapes`",
    "parts": "use a data set of objects with parts, such as `--data shapes:parts=4`",
}

OF_DATA = frozenset[Need]({"mask", "parts"})


@dataclass(frozen=True)
class Case:
    """The maps to score: of a network on images, made here or stored; or stored ones alone, where `model` is None."""

    settings: Score
    metrics: Mapping[str, Metric]
    model: Classifier | None
    sources: Sequence[Source]
    store: MapStore | None

    @property
    def names(self) -> list[str]:
        """The names of the images."""
        return [source.name for source in self.sources] or list(self.store.places if self.store else [])

    @property
    def methods(self) -> list[str]:
        """The methods that made the maps, or will."""
        return list(self.settings.methods) or (self.store.methods if self.store else [])

    @cached_property
    def controls(self) -> set[str]:
        """The methods that explain nothing, as far as they are known here."""
        controls = set[str]()
        for text in self.methods:
            with contextlib.suppress(UsageError):  # a map from another tool
                if ATTRIBUTIONS.declares(ATTRIBUTIONS.parse_name(text)[0], "control"):
                    controls.add(text)
        return controls

    @cached_property
    def unsigned(self) -> set[str]:
        """The methods whose maps count by their absolute value, as far as they are known here."""
        unsigned = set[str]()
        for text in self.methods:
            with contextlib.suppress(UsageError):  # a map from another tool
                if not is_signed(ATTRIBUTIONS.make(text)):
                    unsigned.add(text)
        return unsigned


def run(settings: Score, world: World, watch: Watch) -> Outcome:
    """Measure the maps of all images, made here or read from files."""
    metrics = {text: METRICS.make(text) for text in settings.metrics}
    store = None if settings.maps is None else open_maps(settings.maps)
    pictured = bool(settings.images) or settings.data is not None
    given = ({"model", *OF_DATA} if pictured else set()) | ({"explain"} if store is None else set())
    check_needs(metrics, given, HINTS)
    runtime = select_runtime(settings.device, settings.precision, settings.rows)
    model = explained_network(settings, runtime.device) if pictured else None
    with runtime.scope():
        if model is None:
            assert store is not None
            total = len(store.places)
            store = store.first(settings.limit_of(total))
            sources, sample = list[Source](), sample_of(list(store.places), total, "first")
        else:
            images, sample = image_sources(settings, model, world, watch)
            sources = with_maps(images, store)
        _check_data(metrics, sources)
        case = Case(settings, metrics, model, sources, store)
        folder = open_folder(settings, world, _record_kind(metrics))
        before = earlier_records(folder, case.names, case.methods)
        if store is None:  # else there may be images that lack maps of some methods
            before = before.complete(len(case.methods))
        with watch.progress("scoring", -(-len(case.names) // world.size)) as advance:
            accuracies = list[Accuracy]()
            results = _score(case, folder, before.images, world, advance, accuracies)
        machine = inference_facts(settings, model)
    failed = [result for result in results if isinstance(result, Failed)]
    records = merge_records(before, _records(results), case.methods)
    if not world.leads:
        return Outcome(None, exit_code(records, failed))
    raise_lone_failure(records, failed)
    with watch.progress("comparing"):
        rows = [dataclasses.asdict(row) for row in summarise(records, case.methods, metrics, case.controls)]
        trusted = trust(records, case.methods, metrics, case.controls) if settings.trust else []
        blind = {row.metric for row in trusted if row.degradation is not None and row.degradation < LEAST_DEGRADATION}
        rows = [row | {"best": row["best"] and row["metric"] not in blind} for row in rows]
        turned = reorderings(records, case.methods, removal_groups([*metrics]))
    _report_exclusions(rows)
    _report_doubts(case, accuracies, rows)
    document = make_document(settings, watch, machine, rows, failed)
    document["sample"] = dataclasses.asdict(sample)
    document["images"] = len({record["index"] for record in records})
    document["trust"] = [dataclasses.asdict(row) for row in trusted]
    found = powers(records, case.methods, metrics, settings.power)
    document["power"] = [_flat(row) for row in found]
    document["removals"] = [dataclasses.asdict(row) for row in turned]
    document["gates"] = gates = _judge(rows, settings.gates)
    if records:
        with watch.progress("drawing"):
            _write(case, folder, records, document)
    return Outcome(document, exit_code(records, failed) or (3 if any(gate["missed"] for gate in gates) else 0))


def _record_kind(metrics: Mapping[str, Metric]) -> Any:
    """Return the kind of a record, which holds every metric, and trials if there were any."""
    return form(ScoreRecord, scores=keyed(metrics, Value), trust=NotRequired[Mapping[str, Trials]])


def _score(
    case: Case,
    folder: RunFolder,
    done: set[int],
    world: World,
    advance: Callable[[int], None],
    accuracies: list[Accuracy],
) -> Sequence[Any]:
    """Score the maps of a network, or stored ones without it; finished images go into the run folder.

    The accuracy of the maps, as far as it is known, is appended to `accuracies`.
    """
    settings, store = case.settings, case.store
    files = file_names(case.names)

    def keep(scored: Scored) -> None:
        folder.begin()
        accuracies.extend(scored.accuracies)
        if settings.figure and scored.image is not None:
            save_strip(folder.folder / "strips" / f"{files[scored.index]}.png", scored, case.unsigned)

    def report(results: Sequence[Any], count: int) -> None:
        if records := _records(results):
            folder.append(records)
        advance(count)

    if case.model is None:
        assert store is not None
        return score_maps(store, case.metrics, seed=settings.seed, world=world, done=done, report=report)
    return score(
        case.model,
        {text: ATTRIBUTIONS.make(text) for text in settings.methods},
        case.metrics,
        case.sources,
        stored=store.explanations if store else None,
        target=class_index(settings.target, case.model),
        draws=settings.draws,
        trials=settings.trust,
        keep=keep,
        seed=settings.seed,
        world=world,
        done=done,
        report=report,
    )


def _flat(row: MethodPower) -> Record:
    """Return the power of a comparison of methods, as JSON."""
    return {"metric": row.metric, "first": row.first, "second": row.second, **dataclasses.asdict(row.power)}


def _records(results: Sequence[Any]) -> list[Record]:
    return [dataclasses.asdict(result) for result in results if not isinstance(result, Failed)]


def _check_data(metrics: Mapping[str, Metric], sources: Sequence[Source]) -> None:
    """Raise `UsageError` for a metric that needs masks, or parts, where the images have none."""
    if any(OF_DATA & metric.needs for metric in metrics.values()):
        items = (item for i in range(len(sources)) for item in read_all(sources, range(i, i + 1)))
        first = next((item for item in items if isinstance(item, Item)), None)
        if first is None:
            return
        there = {need for need in OF_DATA if getattr(first, need) is not None}
        check_needs(metrics, {"model", "explain"} | there, HINTS)


def _judge(rows: Sequence[Record], gates: Sequence[Gate]) -> list[Record]:
    """Judge each gate for each method; a mean that is missing misses it."""
    judged = []
    for gate in gates:
        for row in (row for row in rows if row["metric"] == gate.metric):
            mean = row["mean"]
            missed = mean is None or (mean > gate.bound if gate.over else mean < gate.bound)
            judged.append({"method": row["method"], "mean": mean, **dataclasses.asdict(gate), "missed": missed})
    return judged


def _report_exclusions(rows: Sequence[Record]) -> None:
    for metric in dict.fromkeys(row["metric"] for row in rows):
        row = next(row for row in rows if row["metric"] == metric)
        if row["excluded"]:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in row["why"].items())
            log.warning("`%s`: %d images are left out for all methods: %s", metric, row["excluded"], reasons)


def _report_doubts(case: Case, accuracies: Sequence[Accuracy], rows: Sequence[Record]) -> None:
    """Warn of maps that are mostly noise, and of too few images for a comparison."""
    noisy = case.model is not None and case.model.noise != "none"
    methods = {text: ATTRIBUTIONS.make(text) for text in case.settings.methods}
    for text in doubts(accuracies, methods, case.settings.draws if noisy else None):
        log.warning("%s", text)
    compared = [row["n"] for row in rows if row["better"] != "none"]
    least = fewest_images(len(case.methods))
    if len(case.methods) > 1 and compared and max(compared) < least:
        log.warning(
            "n = %d is too few for a significant best of %d methods: use at least %d images",
            max(compared),
            len(case.methods),
            least,
        )


def _write(case: Case, folder: RunFolder, records: Records, document: Mapping[str, Any]) -> None:
    folder.finish(records, document)
    settings = case.settings
    if settings.figure:
        strips, files = folder.folder / "strips", file_names(case.names)
        curves, gallery = (settings.figure_file(folder.folder, name) for name in ("curves", "gallery"))
        draw_curves(curves, records, case.methods, case.metrics, settings.look)
        draw_gallery(gallery, strips, records, case.methods, files, case.unsigned, settings.look)
