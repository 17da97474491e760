"""Commands that are tortured from outside: small ones, each in a process of its own, in a folder with their inputs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recorded.record import ABSOLUTE, RELATIVE, Place

import stochx

DATA = "--data shapes:size=16,classes=3,count=60"
NET = "train/model.safetensors"
FEW = "fsc-train/model.safetensors"
EPISODES = "--data shapes:classes=6,size=32,count=300"

# Commands with a folder of the same name, `-o` and `--resume`, each after those whose files it reads.
RUNS = {
    "train": f"train {DATA} --arch convnet:width=4 --epochs 3 --batch-size 8 --lr 0.01 --validation 12",
    "distill": f"distill --teacher {NET} {DATA} --limit 20 --epochs 2 --batch-size 5 --draws 2",
    "explain": f"explain photo.png --model {NET} {DATA} --limit 3 -m ig:steps=8 -m lrp --batch-size 1",
    "score": f"score {DATA} --model {NET} --limit 3 -m gradient -m ig:steps=3 -s aupc:draws=2 -s sparseness"
    " --batch-size 1",
    "attack": f"attack {NET} {DATA} --limit 6 -a fgsm -a pgd:steps=5 --eps 1/255 --draws 2 --batch-size 2",
    "certify": f"certify {NET} {DATA} --limit 6 --sigma 0.1 --selection 20 --draws 400 --radii 0,0.05,1",
    "boundary": f"boundary {NET} distill/student.safetensors {DATA} --images 0,1,2 --resolution 8 --draws 2",
    "fsc-train": f"fsc-train {EPISODES} --backbone conv4:width=8 --size 32 --way 3 --shot 2 --queries 3"
    " --head relation --guide lrp --episodes 6 --every 3 --validation 2 --batch-size 3",
    "fsc-test": f"fsc-test {FEW} {EPISODES} --shot 1 --shot 2 --queries 3 --episodes 10",
    "fsc-explain": f"fsc-explain photo.png --model {FEW} --support support",
}
PRINTS = {
    "info": f"info {NET}",
    "list": "list attacks",
    "card": "card attack",
    "compare": "compare attack attack",
    "doctor": "doctor --device cpu",
}
REPORT = "report attack explain"  # which has an output too, but a file
DEMO = "demo"  # ten minutes long
SECONDS = 60.0  # after which a small command hangs
NOT_COMPARED = {"seconds", "version", "threads", "output", "model"}
CAUGHT = 1 << (signal.SIGTERM - 1)
TRACES = ("Traceback", "Exception ignored", "Fatal Python error", "terminate called", "Segmentation fault", "gloo")

# Forked from one process that has imported what commands import, as all these imports take longer than the commands.
SERVER = multiprocessing.get_context("forkserver")
PACKAGES = "attacks", "attributions", "datasets", "heads", "metrics", "reports", "runs", "settings", "tasks"
FOLDER = Path(stochx.__file__).parent
SERVER.set_forkserver_preload(
    ["torch.distributed", "stochx.cli", "stochx.loading", "torture.commands"]
    + [f"stochx.{name}.{module.name}" for name in PACKAGES for module in pkgutil.iter_modules([str(FOLDER / name)])]
)


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit code, that of a signal too, what it wrote, how long it took, its peak."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def traceback(self) -> str | None:
        """What betrays that an error was not handled, as a fault."""
        lines = self.stderr.splitlines()
        if not any(trace in self.stderr for trace in TRACES):
            return None
        return f"traceback: {next((line for line in reversed(lines) if line and not line.startswith(' ')), '')[:150]}"


@dataclass
class Started:
    """A command that runs, with files for its streams in a folder; it ends with the block."""

    process: Any
    folder: Path
    begun: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._code() is None

    def _code(self) -> int | None:
        forked = not isinstance(self.process, subprocess.Popen)
        code: int | None = self.process.exitcode if forked else self.process.poll()
        return code

    def listens(self) -> bool:
        """Wait until it handles signals, as it does from its first line; false if it ends before."""
        while self.is_alive():
            with contextlib.suppress(OSError):
                if _caught(self.pid) & CAUGHT:
                    return True
            time.sleep(0.002)
        return False

    def reaches(self, seconds: float) -> bool:
        """Wait until it has had so much of the processor's time since it listens; false if it ends before."""
        if not self.listens():
            return False
        begin = cpu_seconds(self.pid) or 0.0
        while self.is_alive() and (now := cpu_seconds(self.pid)) is not None:  # a zombie still has its time
            if now >= begin + seconds:
                return self.is_alive()
            time.sleep(0.001)
        return False

    def length(self) -> float:
        """Wait for its end, and return the processor's time that it had since it listens."""
        self.listens()
        begin = last = cpu_seconds(self.pid) or 0.0
        while (now := cpu_seconds(self.pid)) is not None and self.is_alive():
            last = max(last, now)
            time.sleep(0.005)
        self.wait()
        return last - begin

    def wait(self, seconds: float = SECONDS) -> Ended | None:
        """Wait for its end; None if it did not end in time, and was killed."""
        end = time.monotonic() + seconds
        with contextlib.suppress(subprocess.TimeoutExpired):
            join = getattr(self.process, "join", None) or self.process.wait
            join(timeout=seconds)
        if (code := self._code()) is None and time.monotonic() >= end:
            self.kill()
            return None
        streams = (self.folder.joinpath(name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return Ended(128 - code if code and code < 0 else code or 0, *streams, time.monotonic() - self.begun)

    def send(self, number: int) -> None:
        """Send a signal, if there is still someone to get it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, come what may."""
        self.process.kill()
        self.wait()


def _caught(pid: int) -> int:
    """Return the mask of the signals that a process handles."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))


def cpu_seconds(pid: int) -> float | None:
    """Return the processor's time that the main thread of a process has had; None for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None


def start(
    words: str | Sequence[str],
    cwd: Path,
    streams: Path,
    *,
    fresh: bool = False,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], object] | None = None,
) -> Started:
    """Start a command, forked or `fresh` from its first import; `prepare` is called in its process before."""
    words = shlex.split(words) if isinstance(words, str) else list(words)
    streams.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(streams), **(environment or {})}
    given = cwd, streams, environment, prepare
    if not fresh:
        process: Any = SERVER.Process(target=_command, args=(words, *given))
        process.start()
        return Started(process, streams)
    for name in ("stdout", "stderr"):
        (streams / name).touch()
    line = [sys.executable, "-m", "stochx", *words]
    return Started(subprocess.Popen(line, preexec_fn=lambda: _enter(*given)), streams)


def _command(words: Sequence[str], *given: Any) -> None:
    _enter(*given)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # as Python opens them at its start
        stream = None
        with contextlib.suppress(OSError):  # closed
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["stochx", *words]
    runpy.run_module("stochx", run_name="__main__")


def _enter(cwd: Path, streams: Path, environment: Mapping[str, str], prepare: Callable[[], object] | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a job in the background ignores some
        signal.signal(number, signal.SIG_DFL)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    os.chdir(cwd)
    if prepare is not None:
        prepare()


def run(words: str | Sequence[str], cwd: Path, streams: Path, **more: Any) -> Ended | None:
    """Run a command to its end; None if it hangs."""
    seconds = more.pop("seconds", SECONDS)
    return start(words, cwd, streams, **more).wait(seconds)


def prepared(folder: Path) -> Path:
    """Return the folder where commands are typed, with their inputs and the results they have when nothing happens."""
    digest = hashlib.sha256()
    for file in sorted([Path(__file__), *FOLDER.rglob("*.py")]):
        digest.update(file.read_bytes())
    place = folder / f"place-{digest.hexdigest()[:12]}"
    with (folder / "place.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process prepares it for all
        if not (place / "ready").exists():
            _prepare(place, folder)
    return place


def _prepare(place: Path, folder: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    Place(place)
    lengths = {}
    for name, words in RUNS.items():
        started = start(f"{words} -o {name} --device cpu", place, folder / "streams")
        lengths[name], ended = started.length(), started.wait()
        if ended is None or ended.code:
            raise RuntimeError(f"`{words}` does not even work by itself: {ended}")
    (place / "ready").write_text(json.dumps(lengths))


def length_of(place: Path, name: str) -> float:
    """Return the processor's time that a run takes when nothing happens."""
    return float(json.loads((place / "ready").read_text())[name])


def typed(name: str, output: Path) -> str:
    """Return a command as it is typed, with an output where it has one."""
    if name in RUNS:
        return f"{RUNS[name]} --device cpu -o {shlex.quote(str(output))}"
    if name in PRINTS:
        return PRINTS[name]
    return f"{REPORT if name == 'report' else DEMO} -o {shlex.quote(str(output))}"


def left_over(folder: Path) -> str | None:
    """Return the fault of files that are temporary and were left, in the folder of an output or beside it."""
    names = {".lock"}
    found = [p for p in folder.rglob("*") if p.name.startswith(".stochx-") or p.suffix == ".tmp" or p.name in names]
    return f"left over: {found[0].name}" if found else None


def difference(place: Path, name: str, output: Path) -> str | None:
    """Return where the result of a run differs from the one that it has when nothing happens, as a fault."""
    documents = []
    for folder in (place / name, output):
        try:
            documents.append(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            return f"lost: {error}"
    where = next(_differences(*documents, ""), None)
    return None if where is None else f"another result: {where}"


def _differences(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key not in NOT_COMPARED:
                yield from _differences(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{path}/{place}")
    elif isinstance(one, float) and isinstance(other, float):
        if not abs(one - other) <= ABSOLUTE + RELATIVE * abs(one):
            yield f"{path}: {other} in place of {one}"
    elif one != other:
        yield f"{path}: {str(other)[:60]} in place of {str(one)[:60]}"
