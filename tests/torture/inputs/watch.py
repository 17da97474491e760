"""Cases of fuzzed inputs in forked children, watched: time, memory, what is written, started and connected to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import torch
from torture.outcomes import Outcome

from stochx.engine.io.files import UNFINISHED
from stochx.errors import StochxError, first_line

SECONDS, WALL = 10, 60  # of the processor, and by the clock, that a case may take: others keep this machine busy too
GRACE = 5  # seconds after which it is killed if Python no longer sees the alarm
MOST = 2 * 2**30  # bytes that a case may take,
LIMIT = 5 * 2**30  # and of which the system refuses more
BATCH = 300  # cases of a child
CANARY = "torture_canary"  # the file that code from hostile files would make, and a word in all such code
CASE = "case"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PLAIN = {"numpy", "_codecs"}  # whose arrays are read from pickles
STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn"}
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
CONNECTS = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"}


class Fault(Exception):
    """What a case finds wrong, where nothing was raised."""


class HangError(BaseException):
    """The time of a case is over."""


class Guard:
    """Notes what a case must not do; Python gives no way to take its hook away, so that it is for children alone."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Note what is done outside of a folder, and what never may be."""
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None

    def _hook(self, event: str, values: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        fault = self._fault(event, values)
        if fault is not None:
            self.seen.append(fault)
        if event in CONNECTS:
            raise OSError(errno.ENETUNREACH, "the network is out of reach")

    def _fault(self, event: str, values: tuple[Any, ...]) -> str | None:
        if event in STARTS or (event == "pickle.find_class" and values[0].partition(".")[0] not in PLAIN):
            return f"code run: {event} {values[:2]}"
        if event == "open" and values[2] & WRITING and self._is_outside(values[0]):
            return f"written outside: {values[0]}"
        if event in CHANGES and self._is_outside(values[event in ("os.link", "os.symlink")]):
            return f"written outside: {event} {values[0]}"
        if event == "compile" and CANARY.encode() in _encoded(values[0]):
            return "code run: compile"
        if event == "exec" and isinstance(values[0], CodeType) and self._holds(values[0].co_filename):
            return f"code run: {values[0].co_filename}"
        return None

    def _is_outside(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # with `..` resolved
        return not self._holds(whole) and whole != os.devnull

    def _holds(self, path: str) -> bool:
        return path.startswith(f"{self.folder}{os.sep}") or path == str(self.folder)


def _encoded(source: object) -> bytes:
    if isinstance(source, str):
        return source.encode("utf-8", "replace")
    return source if isinstance(source, bytes) else b""


@dataclass(frozen=True)
class Cases:
    """What is tortured: the group of a number, and how its case is run in a folder."""

    group: Callable[[int], str]
    run: Callable[[int, Path], object]


def watched(cases: Cases, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
    """Run cases in forked children, and yield what comes of each; what a fault left is kept in a folder of its number.

    A child that ends or hangs takes the case with it that it was at, and another goes on behind it.
    """
    left = list(numbers)
    while left:
        for outcome in _in_child(cases, left[:BATCH], folder):
            left.remove(outcome.number)
            yield outcome


def _in_child(cases: Cases, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(cases, numbers, folder, writing)
    os.close(writing)
    waiting, fault = list(numbers), "hang"
    try:
        for line in _lines(reading):
            outcome = Outcome(**json.loads(line))
            waiting.remove(outcome.number)
            yield outcome
    except EOFError:
        fault = "crash"
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if waiting:
        _keep(folder, waiting[0], fault)
        yield Outcome(waiting[0], cases.group(waiting[0]), fault, WALL + GRACE)


def _lines(reading: int) -> Iterator[bytes]:
    """Yield the lines that a child writes; raises `EOFError` at its end, and ends where it is silent for too long."""
    text = b""
    while select.select([reading], [], [], WALL + GRACE)[0]:
        if not (more := os.read(reading, 2**16)):
            raise EOFError
        *lines, text = (text + more).split(b"\n")
        yield from lines


def _work(cases: Cases, numbers: Sequence[int], folder: Path, writing: int) -> NoReturn:
    """Run cases in this child, and write the outcome of each."""
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _raise_hang)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's, who ends its child
    torch.set_num_threads(1)  # makes the pool that a fork loses: two readers that make it at once are a fault of torch
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + LIMIT, resource.RLIM_INFINITY))
    guard = Guard()
    try:
        for number in numbers:
            outcome = _watch(cases, number, folder, guard)
            os.write(writing, (json.dumps(asdict(outcome)) + "\n").encode())
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def _watch(cases: Cases, number: int, folder: Path, guard: Guard) -> Outcome:
    place = folder / CASE
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    tempfile.tempdir, guard.seen, said = str(place), [], ""
    Path("/proc/self/clear_refs").write_text("5")  # the peak anew
    start = time.process_time()
    try:
        with guard.over(place), _alarm():
            fault = _fault(cases, number, place)
    except HangError:
        fault, said = "hang", traceback.format_exc()
    except BaseException as error:
        fault, said = f"traceback: {type(error).__name__}: {first_line(error)}"[:200], traceback.format_exc()
    seconds, peak = time.process_time() - start, _status("VmHWM")
    fault = fault or _left(place, guard) or (f"memory: {peak / 2**30:.1f} GiB" if peak > MOST else None)
    if fault is not None:
        _keep(folder, number, said or fault)
    return Outcome(number, cases.group(number), fault, round(seconds, 3), peak)


def _fault(cases: Cases, number: int, place: Path) -> str | None:
    try:
        cases.run(number, place)
    except StochxError:  # as it should be
        return None
    except Fault as fault:
        return str(fault)
    return None


def _left(place: Path, guard: Guard) -> str | None:
    """Return what a case did beside its work."""
    if guard.seen:
        return guard.seen[0]
    if any(place.rglob(CANARY)):
        return "code run"
    left = [path.name for path in place.rglob(f"{UNFINISHED}*")]
    return f"left over: {left[0]}" if left else None


def _keep(folder: Path, number: int, said: str) -> None:
    """Keep the files of a case, with what is said of it."""
    kept = folder / str(number)
    shutil.rmtree(kept, ignore_errors=True)
    (folder / CASE).rename(kept)
    (kept / "fault.txt").write_text(said, encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WALL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def _raise_hang(number: int, frame: FrameType | None) -> NoReturn:
    raise HangError


def _status(name: str) -> int:
    """Return a number of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
