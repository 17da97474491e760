"""Run `stochx certify`: certify every image, write the records, the table and the figure."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stochx.classes import with_classes_of
from stochx.engine.device import select_runtime
from stochx.engine.io.forms import below, form
from stochx.engine.io.lines import Record
from stochx.engine.io.records import Records
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.input_noise import input_noise
from stochx.engine.world import World
from stochx.errors import UsageError
from stochx.loading import Loaded
from stochx.reports.certificates import draw_certified
from stochx.runs import Document, Outcome
from stochx.runs._card import write_card
from stochx.runs._networks import data_sources, identify, open_network
from stochx.runs._results import (
    exit_code,
    inference_facts,
    label_names,
    labelled_records,
    make_document,
    merge_records,
    open_folder,
    raise_lone_failure,
)
from stochx.runs._samples import count_trained, take, unseen_data
from stochx.runs.watch import Watch
from stochx.settings import Certify
from stochx.tasks.batches import Failed, Source
from stochx.tasks.certify import Certificate, Smoothing, certified_accuracy, certify, overview
from stochx.tasks.doubts import certificate_doubts

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Case:
    """A network and labelled images, the noise to certify under, and where records go."""

    model: Classifier
    sources: Sequence[Source]
    smoothing: Smoothing
    folder: RunFolder


def run(settings: Certify, world: World, watch: Watch) -> Outcome:
    """Certify the images of a data set by a network."""
    runtime = select_runtime(settings.device, "fp32", settings.rows)
    loaded = open_network(settings.model, settings, runtime.device)
    model, name = loaded.model, settings.data
    smoothing = _smoothing(settings, model)
    _check_gate(settings, smoothing)
    data, sample = take(unseen_data(name, {settings.model: model}), settings, name)
    with runtime.scope():
        seen = [(settings.model, model, data_sources(data, name, model))]
        sample = dataclasses.replace(sample, trained=count_trained(seen, world, watch))
        sources = data_sources(with_classes_of(model, data, name), name, model)
        place = below(len(model.classes))
        folder = open_folder(settings, world, form(Certificate, label=place, prediction=place))
        case = Case(model, sources, smoothing, folder)
        records, failed = _records(settings, case, world, watch)
        if not world.leads:
            return Outcome(None, exit_code(records, failed))
        raise_lone_failure(records, failed)
        rows = (
            [_row(settings, row) for row in certified_accuracy(records, _radii(settings, smoothing))] if records else []
        )
        document = make_document(settings, watch, inference_facts(settings, model), rows, failed)
    document |= _details(settings, loaded, smoothing, records)
    document["sample"] = dataclasses.asdict(sample)
    document["labels"] = label_names(
        model.classes, (record[key] for record in records for key in ("label", "prediction"))
    )
    with watch.progress("writing"):
        case.folder.finish(records, document)
        if records:
            write_card(settings.folder, document)
            if settings.figure:
                path = settings.figure_file(settings.folder, "certified")
                draw_certified(path, records, smoothing.largest, settings.look)
    for text in certificate_doubts(overview(records), smoothing) if records else ():
        log.warning(text)
    gate = document["gate"]
    missed = gate is not None and gate["missed"]
    code = exit_code(rows, failed) or (3 if missed else 0)
    return Outcome(document, code)


def _smoothing(settings: Certify, model: Classifier) -> Smoothing:
    """Return the noise to certify under: that of `--sigma`, or the network's own."""
    if settings.deviation is not None:
        return Smoothing((settings.deviation,), settings.selection, settings.draws, settings.alpha)
    own = input_noise(model)
    if own is None:
        raise UsageError(
            f"`{settings.model}` adds no Gaussian noise to its input that could be certified", "add `--sigma 0.25`"
        )
    layer, sigma = own
    return Smoothing(tuple(sigma.tolist()), settings.selection, settings.draws, settings.alpha, instead_of=layer)


def _check_gate(settings: Certify, smoothing: Smoothing) -> None:
    """Raise `UsageError` for a gate that no network can pass, before images are certified."""
    gate = settings.gate
    if gate is not None and gate.bound > 0 and gate.radius > smoothing.largest:
        raise UsageError(
            f"`--fail-under {settings.fail_under}`: {smoothing.draws} draws certify a radius of "
            f"{smoothing.largest:.4f} at most",
            "use a smaller radius, or more `--draws`",
        )


def _radii(settings: Certify, smoothing: Smoothing) -> Sequence[float]:
    """Return the radii of the table; by default multiples of half of sigma, up to the largest that can be certified."""
    if settings.places is not None:
        return settings.places
    step = min(smoothing.sigma) / 2
    return [round(k * step, 9) for k in range(int(smoothing.largest / step) + 1)]


def _records(settings: Certify, case: Case, world: World, watch: Watch) -> tuple[Records, list[Failed]]:
    """Certify the images that an earlier run has not, and return the records of all, and what failed."""
    model, sources, folder = case.model, case.sources, case.folder
    before = labelled_records(folder, model, sources)
    with watch.progress("certifying", -(-len(sources) // world.size)) as advance:

        def report(results: Sequence[Any], count: int) -> None:
            folder.append(_as_json(results))
            advance(count)

        done, seed = before.images, settings.seed
        results = certify(model, sources, case.smoothing, seed=seed, world=world, done=done, report=report)
    failed = [result for result in results if isinstance(result, Failed)]
    return merge_records(before, _as_json(results)), failed


def _as_json(results: Sequence[Any]) -> list[Record]:
    return [dataclasses.asdict(result) for result in results if not isinstance(result, Failed)]


def _row(settings: Certify, row: Any) -> Record:
    return {"model": settings.model} | dataclasses.asdict(row)


def _details(settings: Certify, loaded: Loaded, smoothing: Smoothing, records: Sequence[Record]) -> Document:
    """Return what identifies the certificates, and what was concluded."""
    return {
        "network": identify(loaded),
        "smoothing": _describe(smoothing),
        "overview": dataclasses.asdict(overview(records)) if records else None,
        "gate": _gate(settings, records),
    }


def _describe(smoothing: Smoothing) -> Document:
    """Return the noise and its draws as JSON."""
    return {
        "sigma": smoothing.sigma[0] if len(smoothing.sigma) == 1 else list(smoothing.sigma),
        "own": smoothing.instead_of is not None,
        "selection": smoothing.selection,
        "draws": smoothing.draws,
        "alpha": smoothing.alpha,
        "norm": "l2",
        "largest": smoothing.largest,
    }


def _gate(settings: Certify, records: Sequence[Record]) -> Document | None:
    """Judge `--fail-under`."""
    gate = settings.gate
    if gate is None or not records:
        return None
    (row,) = certified_accuracy(records, [gate.radius])
    value = row.certified if settings.fail_on == "point" else row.low
    return {
        "on": settings.fail_on,
        "radius": gate.radius,
        "bound": gate.bound,
        "value": value,
        "missed": value < gate.bound,
    }
