"""Run `stochx compare`: read two runs, compare their settings and measures, judge the gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stochx.engine.io.mapfile import read_map
from stochx.engine.statistics import estimate
from stochx.engine.world import World
from stochx.errors import InputError, UsageError
from stochx.runs import Document, Outcome
from stochx.runs._measures import MEASURES
from stochx.runs._results import make_document
from stochx.runs.folders import DAMAGE, EDITED, RunRecord, read_run, show
from stochx.runs.watch import Watch
from stochx.settings import Compare
from stochx.settings.base import settings_of
from stochx.settings.figures import Figures
from stochx.tasks.compare import ComparedRow, Measured, compare_runs, judged, missing

FACTS = ("version", "seed", "device", "precision", "threads", "batch_size", "noise")
LOOKS = frozenset(setting.name for setting in settings_of(Figures)) - {"include"}
UNSEEN = LOOKS | {"output"}  # settings that change no number: where a run lies, and how its figures look


def run(settings: Compare, world: World, watch: Watch) -> Outcome:
    """Compare two runs; the document has a row for each measure that both have."""
    if not world.leads:
        return Outcome(None)
    old, new = read_run(settings.old), read_run(settings.new)
    _check(settings, old, new)
    try:
        return _compare(settings, old, new, watch)
    except DAMAGE:
        message = f"`{old.path}` or `{new.path}` lacks what a comparison of `{new.command}` reads"
        raise InputError(message, EDITED) from None


def _compare(settings: Compare, old: RunRecord, new: RunRecord, watch: Watch) -> Outcome:
    before, after = _measures(old), _measures(new)
    paired = _same_images(old, new)
    if not paired:
        before = [dataclasses.replace(measured, values={}) for measured in before]
    rows = compare_runs(before, after)
    if not rows:
        raise InputError(f"`{settings.old}` and `{settings.new}` have no measure in common", "compare runs alike")
    if settings.fail_on_regression is not None:
        rows = judged(rows, settings.fail_on_regression)
    if paired and new.command == "explain" and old.path.is_dir() and new.path.is_dir():
        rows += _map_distances(old, new)
    document = make_document(settings, watch, {}, [dataclasses.asdict(row) for row in rows])
    document |= {
        "of": new.command,
        "old": _identify(old),
        "new": _identify(new),
        "same_images": paired,
        "changes": _changes(old.document, new.document),
        "only_old": missing(before, after),
        "only_new": missing(after, before),
    }
    show(document)
    missed = settings.fail_on_regression is not None and (
        any(row.regression for row in rows) or bool(document["only_old"])
    )
    return Outcome(document, 3 if missed else 0)


def _check(settings: Compare, old: RunRecord, new: RunRecord) -> None:
    if old.command != new.command:
        raise UsageError(
            f"`{settings.old}` is a run of {old.command}, `{settings.new}` of {new.command}",
            "compare two runs of one command",
        )
    if new.command not in MEASURES:
        raise UsageError(f"runs of {new.command} cannot be compared", f"compare those of {', '.join(MEASURES)}")


def _measures(run: RunRecord) -> list[Measured]:
    """Return the measures of a run; raises `InputError` for records that do not belong to its document."""
    try:
        return list(MEASURES[run.command](run))
    except DAMAGE:
        hint = f"they were edited, or another version wrote them: run `{run.command}` again"
        raise InputError(f"the records in `{run.path}` do not fit its document", hint) from None


def _same_images(old: RunRecord, new: RunRecord) -> bool:
    """Return true if images of one name are the same in both runs: of one data set, or of one sample."""
    data, samples = ([run.document["args"].get("data") for run in (old, new)], [_hash(old), _hash(new)])
    return data[0] == data[1] or (samples[0] is not None and samples[0] == samples[1])


def _hash(run: RunRecord) -> object:
    sample = run.document.get("sample")
    return sample.get("hash") if isinstance(sample, Mapping) else None


def _identify(run: RunRecord) -> Document:
    """Return the path and version of a run, and the number of its images that could not be used."""
    return {
        "path": str(run.path),
        "version": run.document["version"],
        "failed": len(run.document.get("failed", [])),
    }


def _changes(old: Document, new: Document) -> list[Document]:
    """Return the settings and facts that differ, with both values; null where a run has none."""
    before, after = _facts(old), _facts(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [{"name": name, "old": before.get(name), "new": after.get(name)} for name in names]


def _facts(document: Document) -> dict[str, Any]:
    """Return what identifies a run: its settings, versions and hashes of what it read."""
    facts = {name: value for name, value in document["args"].items() if name not in UNSEEN}
    facts |= {name: document[name] for name in FACTS if name in document}
    networks = [document.get("network"), *(document.get("models") or ())]
    digests = [network["sha256"] for network in networks if isinstance(network, Mapping) and network.get("sha256")]
    facts |= {f"weights {place}" if place > 1 else "weights": digest for place, digest in enumerate(digests, 1)}
    for name, key in (("dataset", "sha256"), ("sample", "hash")):
        if isinstance(document.get(name), Mapping) and key in document[name]:
            facts["images"] = document[name][key]
    return facts


def _map_distances(old: RunRecord, new: RunRecord) -> list[ComparedRow]:
    """Return for each method the mean relative distance of its maps, |a - b| / |a|, of the same image and class."""
    before = {(row["image"], row["method"]): row for row in old.document["results"]}
    distances: dict[str, list[float]] = {}
    for row in new.document["results"]:
        pair = before.get((row["image"], row["method"]))
        if pair is not None and pair["target"] == row["target"]:
            distances.setdefault(row["method"], []).append(_distance(old, pair, new, row))
    return [_distance_row(method, values) for method, values in distances.items()]


def _distance(old: RunRecord, before: Mapping[str, Any], new: RunRecord, after: Mapping[str, Any]) -> float:
    first, second = (
        read_map(run.path / Path(row["map"]).name, run.path).map for run, row in ((old, before), (new, after))
    )
    if first.shape != second.shape:
        raise InputError(
            f"the maps of `{after['image']}` differ in shape", "explain images of one size, or with one `--crop`"
        )
    scale = float(torch.linalg.vector_norm(first))
    return float(torch.linalg.vector_norm(first - second)) / scale if scale else 0.0


def _distance_row(method: str, values: Sequence[float]) -> ComparedRow:
    mean, n = estimate(values), len(values)
    low, high = (mean.low, mean.high) if n > 1 else (None, None)
    return ComparedRow(method, "distance of maps", "none", None, None, mean.mean, low, high, None, None, n, None, None)
