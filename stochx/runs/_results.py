"""The end of every run: old and new records, failures, the document, the exit code."""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stochx.engine.device import current
from stochx.engine.io.lines import Record
from stochx.engine.io.records import Records
from stochx.engine.io.store import RunFolder
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import printable
from stochx.runs.document import Document, compose
from stochx.runs.watch import Watch
from stochx.settings.base import Settings
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Machine
from stochx.tasks.batches import Failed, Source

log = logging.getLogger("stochx")


def open_folder(settings: RunFiles, world: World, kind: Any) -> RunFolder:
    """Open the run folder; with `resume`, it brings the records of the earlier run, which may be of older files.

    All of them are of the `kind` of this run's.
    """
    config = settings.recorded()
    folder = RunFolder(settings.folder, config, settings.free(), world.rank, settings.resume, kind)
    if folder.lines and world.leads:
        _warn_of_newer_files(settings.folder, config)
    return folder


def _warn_of_newer_files(folder: Path, config: Mapping[str, object]) -> None:
    """Warn of files that settings name, such as weights, if they were written after the run in `folder` began."""
    replayable = folder / "config.toml"
    began = replayable.stat().st_mtime if replayable.exists() else float("inf")
    texts = [str(text) for value in config.values() for text in (value if isinstance(value, list | tuple) else [value])]
    # Parts of texts too: the FILE of `npz:path=FILE`, `FILE#PART` and `FILE.py:function`.
    for text in dict.fromkeys(part for whole in texts for part in (whole, *re.split("[=,:#]", whole))):
        file = Path(text).expanduser()
        try:
            newer = file.is_file() and file.stat().st_mtime > began
        except (OSError, ValueError):  # no name of a file
            continue
        if newer:
            log.warning(
                "`%s` is newer than the results in `%s` that are kept; leave out `--resume` if it has changed",
                printable(text),
                folder,
            )


def earlier_records(
    folder: RunFolder,
    names: Sequence[str],
    methods: Sequence[str] = (),
    counts: Callable[[Record], bool] = lambda record: True,
) -> Records:
    """Return the records of an earlier run that count, at the places of their images among `names`, in order.

    With another `--limit` an image may have another place. Records of the same image are in the order of `methods`.
    """
    keys, moved = array("q"), list[Record]()
    places: dict[str, int] = {}
    rank = _ranks(methods)
    for place, record in folder.lines.placed():
        before, image = record["index"], record["image"]
        if before >= len(names) or names[before] != image:  # an image may be named twice
            places = places or {name: index for index, name in enumerate(names)}
            record["index"] = places.get(image)
        if record["index"] is None or (methods and record["method"] not in methods) or not counts(record):
            continue
        if record["index"] != before:
            moved.append(record)
            place = -len(moved)
        keys.extend((place, record["index"], rank(record)))
    return Records(folder.lines, np.array(keys).reshape(-1, 3), moved)


def labelled_records(folder: RunFolder, model: Classifier, sources: Sequence[Source]) -> Records:
    """Return the same for labelled images, without those whose label was mended since."""

    def counts(record: Record) -> bool:
        return model.classes[record["label"]] == sources[record["index"]].true

    return earlier_records(folder, [source.name for source in sources], counts=counts)


def merge_records(before: Records, new: Sequence[Record], methods: Sequence[str] = ()) -> Records:
    """Merge records of an earlier run with this one's, in the order of images, then of methods."""
    return before.merged(new, _ranks(methods))


def _ranks(methods: Sequence[str]) -> Callable[[Record], int]:
    """Return what tells the place of a record among those of its image."""
    order = {method: place for place, method in enumerate(methods)}
    return lambda record: order[record["method"]] if order else 0


def raise_lone_failure(records: Sequence[Record], failed: Sequence[Failed]) -> None:
    """Make the failure of a lone image the error of the whole command."""
    if not records and len(failed) == 1:
        raise failed[0].error


def exit_code(records: Sequence[Record], failed: Sequence[Failed]) -> int:
    """Return 0 if all is well, 1 if some images failed; if all did, 2 where the input is to blame."""
    if not failed:
        return 0
    return 1 if records else min(2, *(f.error.exit_code for f in failed), 2)


def label_names(classes: Sequence[str], labels: Iterable[int]) -> dict[str, str]:
    """Return the names of the classes that appear in records, by their index."""
    return {str(label): classes[label] for label in sorted({*labels})}


def machine_facts(settings: Machine) -> dict[str, object]:
    """Return where and how numbers were computed."""
    runtime = current()
    return {
        "seed": settings.seed,
        "device": str(runtime.device),
        "precision": runtime.precision,
        "threads": torch.get_num_threads(),
    }


def inference_facts(settings: Machine, model: Classifier | None) -> dict[str, object]:
    """Return the same for commands that send images through finished networks, whose batch size is part of it."""
    facts = machine_facts(settings) | {"batch_size": current().batch_size or "auto"}
    return facts if model is None else facts | {"noise": model.noise}


def make_document(
    settings: Settings,
    watch: Watch,
    machine: Mapping[str, object],
    rows: Sequence[Mapping[str, Any]],
    failed: Sequence[Failed] | None = None,
) -> Document:
    """Make the object of `--json` and result.json; with `failed`, None aside, it lists what failed."""
    document = compose(settings.command, settings.recorded(), machine, rows, watch.seconds)
    if failed is not None:
        document["failed"] = describe_failed(failed)
    return document


def describe_failed(failed: Sequence[Failed]) -> list[Record]:
    """Return what failed, as JSON."""
    return [{"image": f.image, "error": str(f.error), "hint": f.error.hint} for f in failed]
