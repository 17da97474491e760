"""Finished runs on the disk: their folder is read and checked, so that what follows can rely on it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stochx.engine.io.lines import read_json, read_records, read_toml
from stochx.errors import InputError, first_line
from stochx.runs.document import SCHEMA, Document
from stochx.settings import COMMANDS
from stochx.tables import view_of

RESULT, CONFIG, RECORDS = "result.json", "config.toml", "records.jsonl"
KINDS: dict[str, type | tuple[type, ...]] = {
    "command": str,
    "version": str,
    "args": dict,
    "results": list,
    "seconds": (int, float),
    "failed": list,
    "models": list,
}
"""Keys of documents, and the types of their values."""
LISTS = frozenset({"failed", "models"})  # which not every document has
EDITED = "it was edited, or another version of stochx wrote it: run the command again"
DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
"""What reading a document raises that was edited, or written by another version.

A generator makes a `RuntimeError` of `StopIteration`, and one of its kinds is that of depth.
"""


@dataclass(frozen=True)
class RunRecord:
    """A finished run: its folder, document, settings and records.

    A run over several networks or points, such as `attack --sweep`, has a folder within its own for each of them:
    these are its `parts`, with records of their own. A document that lies alone has no settings, records or parts.
    """

    path: Path
    command: str
    document: Document
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    parts: tuple[RunRecord, ...] = ()


def read_run(path: Path) -> RunRecord:
    """Read a run folder, its result.json, or a document that lies alone; raises `InputError` for anything else."""
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"`{path}` does not exist", "name the folder of a run, or its result.json")
    if path.name == RESULT:
        return _read_folder(path.parent)
    document = _read_document(path)
    return RunRecord(path, document["command"], document, {}, ())


def _read_folder(folder: Path) -> RunRecord:
    if not (folder / RESULT).is_file():
        begun = any(folder.glob(RECORDS)) or any(folder.glob(CONFIG))
        hint = "finish the run with `--resume`" if begun else "name the folder that a command wrote, as `-o` does"
        raise InputError(f"`{folder}` holds no {RESULT}", hint)
    document = _read_document(folder / RESULT)
    parts = sorted(path.parent for path in folder.glob(f"*/{RECORDS}"))
    return RunRecord(
        folder,
        document["command"],
        document,
        read_toml(folder / CONFIG),
        read_records(folder / RECORDS),
        tuple(
            RunRecord(part, document["command"], document, read_toml(part / CONFIG), read_records(part / RECORDS))
            for part in parts
        ),
    )


def _read_document(path: Path) -> Document:
    """Read a document and check that its command's table can show it."""
    document = read_json(path)
    if not isinstance(document, dict) or "schema" not in document:
        raise InputError(f"`{path}` is not the result of a run", f"name the folder of a run, or its {RESULT}")
    if document["schema"] != SCHEMA:
        raise InputError(
            f"`{path}` has schema `{document['schema']}`, not {SCHEMA}",
            "another version of stochx wrote it: run the command again with this one",
        )
    for key, kind in KINDS.items():
        if not isinstance(document.get(key, [] if key in LISTS else None), kind):
            raise InputError(f"`{path}` has no valid `{key}`", "run the command again")
    if document["command"] not in COMMANDS:
        raise InputError(f"`{path}` is of an unknown command `{document['command']}`", "update stochx")
    try:
        show(document)
    except DAMAGE as error:
        raise InputError(
            f"`{path}` lacks what the table of `stochx {document['command']}` shows: {first_line(error)}",
            EDITED,
        ) from None
    return document


def show(document: Document) -> None:
    """Make every text that tables show of a document."""
    view, rows = view_of(document["command"]), document["results"]
    for lines, columns in ((rows, view.columns(rows)), view.folded(rows)):
        for column in columns:
            _ = [column.cell(line) for line in lines]
    view.labels(rows)
    view.legend(rows)
    view.remarks(document)
    view.gates(document)
