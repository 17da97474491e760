"""What commands over images share at their end: old and new records, failures, the document, the exit code."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stochx.cli import output
from stochx.engine.device import current
from stochx.engine.network.classifier import Classifier
from stochx.tasks.batches import Failed

Record = dict[str, Any]
Document = dict[str, object]


def merged(before: Sequence[Record], new: Sequence[Record], methods: Sequence[str]) -> list[Record]:
    """Records of an earlier run and of this one, in the order of images, then of methods."""
    again = {record["index"] for record in new}
    records = [record for record in before if record["index"] not in again] + list(new)
    order = {method: place for place, method in enumerate(methods)}
    return sorted(records, key=lambda record: (record["index"], order.get(record.get("method", ""), len(order))))


def complain(records: Sequence[Record], failed: Sequence[Failed]) -> None:
    """Report failed images; a lone one is the error of the whole command."""
    if not records and len(failed) == 1:
        raise failed[0].error
    for failure in failed:
        output.complain(str(failure.error), failure.error.hint)


def exit_code(records: Sequence[Record], failed: Sequence[Failed]) -> int:
    """0 if all is well, 1 if some images failed; if all did, 2 where the input is to blame."""
    if not failed:
        return 0
    return 1 if records else min(2, *(f.error.exit_code for f in failed), 2)


def document(
    command: str,
    args: Mapping[str, Any],
    model: Classifier | None,
    rows: Sequence[Record],
    failed: Sequence[Failed],
    start: float,
) -> Document:
    """The result object: `rows`, on which machine, and what failed."""
    runtime = current()
    machine: Document = {
        "seed": args["seed"],
        "device": str(runtime.device),
        "precision": runtime.precision,
        "batch_size": runtime.batch_size or "auto",
        "threads": torch.get_num_threads(),
    }
    if model is not None:
        machine["noise"] = model.noise
    made = output.result(command, args, machine, rows, time.perf_counter() - start)
    made["failed"] = [{"image": f.image, "error": str(f.error), "hint": f.error.hint} for f in failed]
    return made
