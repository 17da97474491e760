"""Run folders: held by one process, filled record by record, resumed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stochx.engine.io.files import append_bytes, atomic, sweep_unfinished, write_json, write_text, writing
from stochx.engine.io.lines import Lines, Record, as_line, cut_torn, read_toml
from stochx.errors import InputError, UsageError, WriteError, storable
from stochx.interrupts import held, released
from stochx.settings.folders import LOCK

if sys.platform != "win32":
    import fcntl


RESUMED = "leave out `--resume` to start over"
RESULTS = ("result.json", "card.json", "card.md")  # what a finished run says


@runtime_checkable
class Stored(Protocol):
    """Records that write themselves, such as `stochx.engine.io.records.Records`."""

    def write(self, path: Path) -> None: ...


class FolderInUseError(UsageError):
    """A run folder that another process writes to."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is created, for the block, and remove what a killed process was writing there.

    The lock is the system's and dies with the process. A folder that is still empty at the end is removed again. Raises
    `FolderInUseError` if another process holds it.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with held():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _acquire(folder / LOCK)
        except OSError as error:
            raise InputError(f"cannot write to `{folder}`: {error.strerror}", "choose another `--output`") from None
        try:
            with released():
                sweep_unfinished(folder, depth=2)  # as deep as runs write; `-o .` may be the top of anything
                yield
        finally:
            with contextlib.suppress(OSError):  # the folder is gone, or its disk cannot be written to any more
                (folder / LOCK).unlink()
            os.close(lock)
            with contextlib.suppress(OSError):  # not empty
                for path in created:
                    path.rmdir()


def _acquire(path: Path) -> int:
    """Return the descriptor of a lock file that this process holds."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                hint = "wait for it, or choose another `--output`"
                raise FolderInUseError(f"another process writes to `{path.parent}`", hint) from None
            except OSError:  # a file system without locks
                return lock
        with contextlib.suppress(FileNotFoundError):  # its last holder has just removed it
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)


def holds_results(folder: Path) -> bool:
    """Return true for a run folder that `--resume` can continue: there is a record, or the state of a training."""
    files = [*folder.glob("records*.jsonl"), *folder.glob("*/records*.jsonl"), *folder.glob("state.safetensors")]
    return any(file.stat().st_size for file in files)


class RunFolder:
    """A run folder: `config.toml` (replayable), `records.jsonl` (one line per result), `result.json`.

    Each rank appends to its own records; `finish` merges them in order. With `resume` existing records count as done,
    and a config that differs in other keys than the `free` ones raises `UsageError`. Reading a record that is not of
    the `kind` raises `InputError`. The end of a line that a crash cut off is cut off too, before the next one is
    appended.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, object],
        free: Collection[str] = (),
        rank: int = 0,
        resume: bool = False,
        kind: Any = Record,
    ) -> None:
        self.folder = folder
        self.config = {key: _escaped(value) for key, value in config.items() if value not in (None, [], "")}
        self._free = frozenset(free)
        self._own = folder / ("records.jsonl" if rank == 0 else f"records-{rank}.jsonl")
        self._leads, self._begun = rank == 0, False
        if resume:
            self._check_config()
        self.lines = Lines(self._record_files() if resume else [], kind, RESUMED)
        self._fresh = not resume

    def _check_config(self) -> None:
        path = self.folder / "config.toml"
        before = read_toml(path, RESUMED)
        for key in sorted({*before, *self.config} - self._free) if path.exists() else ():
            if before.get(key) != self.config.get(key):
                raise UsageError(
                    f"`{path}` was run with `{key}` {_typed(before.get(key))}, not {_typed(self.config.get(key))}",
                    "use the settings of that run, or choose another `--output`",
                )

    def _record_files(self) -> list[Path]:
        return sorted(self.folder.glob("records*.jsonl"))

    def begin(self) -> None:
        """Create the folder and write the config; a new run deletes the records and the result of an older one."""
        if self._begun:
            if self._leads and not (self.folder / "config.toml").exists():  # nor is what was finished there any more
                raise WriteError(f"`{self.folder}` was removed while the command wrote to it", "run it again")
            return
        self._begun = True
        if self._leads:
            write_text(self.folder / "config.toml", to_toml(self.config))
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)  # the leading rank may not have created it yet
            if not self._fresh:
                cut_torn(self._own)
                return
            for file in (self._own, *(self.folder / name for name in RESULTS if self._leads)):
                file.unlink(missing_ok=True)

    def append(self, records: Iterable[Mapping[str, object]]) -> None:
        """Append records; they are on disk when this returns."""
        self.begin()
        append_bytes(self._own, b"".join(map(as_line, records)))

    def finish(self, records: Sequence[Record] | Stored, result: Mapping[str, object]) -> None:
        """Write all records in order, and the result; called by the leading rank after the others are done."""
        self.begin()  # a resumed run with nothing left to do has settings of its own too
        path = self.folder / "records.jsonl"
        if isinstance(records, Stored):
            records.write(path)
        else:
            with atomic(path) as temporary:
                temporary.write_bytes(b"".join(map(as_line, records)))
        with writing(self.folder):
            for part in self.folder.glob("records-*.jsonl"):
                part.unlink()
        write_json(self.folder / "result.json", result)


def _escaped(value: object) -> object:
    """Return a setting with bytes that are not UTF-8 as text, since TOML has no way to write them."""
    if isinstance(value, list):
        return list(map(_escaped, value))
    return storable(value) if isinstance(value, str) else value


def to_toml(values: Mapping[str, object]) -> str:
    """Return a flat TOML document; strings, numbers, booleans and lists are the same in JSON."""
    lines = (f"{key} = {json.dumps(_escaped(value), ensure_ascii=False)}" for key, value in values.items())
    return "".join("".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in line) + "\n" for line in lines)


def _typed(value: object) -> str:
    """Return a setting as it was typed, between backticks."""
    if value is None:
        return "unset"
    return ", ".join(f"`{one}`" for one in (value if isinstance(value, list | tuple) else [value]))
