"""Commands with little memory, on a busy machine, beside themselves, and with data of odd sizes."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from conftest import save_net
from torture.commands import RUNS, SECONDS, Ended, Started, difference, left_over, prepared, start, typed
from torture.outcomes import Outcome

GIB = 2**30
MOST = 2 * GIB  # of memory, for small commands
SLOWEST = 10 * SECONDS  # seconds of any command, on a busy machine
FLAT = 0.25 * GIB  # by which a tenfold number of images may raise the peak
# By which glibc ends a process, with exit code 127 or by SIGABRT
ABORTS = "cannot allocate memory for thread-local data", "Fatal glibc error: failed to register TLS destructor"
BESIDE = 4  # processes that run the same command
SIZES = {"10,000 classes": (24, 16, 10_000), "one class": (24, 16, 1), "one pixel": (24, 1, 3), "one image": (1, 16, 3)}
MANY, FEW = "20,000 images", "2,000 images"
SIZES |= {MANY: (20_000, 8, 3), FEW: (2_000, 8, 3)}
WORK = {
    "explain": "explain --model {net} --data {data} -m gradient --no-figure",
    "score": "score --model {net} --data {data} -m gradient -s sparseness --no-figure",
    "attack": "attack {net} --data {data} -a fgsm --eps 1/255 --checks none --no-figure",
    "certify": "certify {net} --data {data} --sigma 0.1 --selection 10 --draws 20 --no-figure",
    "boundary": "boundary {net} --data {data} --images 0,1,2 --resolution 6 --no-figure",
    "train": "train --data {data} --arch convnet:width=4 --epochs 1 --batch-size 8 --validation 0",
    "distill": "distill --teacher {net} --data {data} --epochs 1 --batch-size 8 --draws 2",
}
LARGE = "explain", "score", "attack", "train"  # which are run on many images
PAIRS = [
    *((kind, name) for kind in ("little memory", "busy machine", "beside itself") for name in RUNS),
    *((kind, name) for kind in SIZES if kind not in (MANY, FEW) for name in WORK),
    *((kind, name) for kind in ("batch of one",) for name in ("explain", "score", "attack", "certify")),
]
random.Random(0).shuffle(PAIRS)
ROUNDS = 3


class Load:
    """Commands under load: right or one error, in time, within memory."""

    name, title = "load", "load"
    total = ROUNDS * len(PAIRS) + len(LARGE)
    short = 6

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Run the cases."""
        place = prepared(folder.parents[1])
        for number in numbers:
            last = number - ROUNDS * len(PAIRS)
            kind, name = PAIRS[number % len(PAIRS)] if last < 0 else (MANY, LARGE[last])
            own, chance = folder / str(number), random.Random(f"{seed} {number}")
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            begin = time.monotonic()
            if kind in SIZES:
                fault, peak = _sized(kind, name, own)
            else:
                fault, peak = _loaded(place, kind, name, own, chance)
            if fault is None:
                shutil.rmtree(own, ignore_errors=True)
            yield Outcome(number, kind, fault and f"{fault} ({name})", time.monotonic() - begin, peak)


def _watch(started: Started) -> tuple[Ended | None, int]:
    """Wait for a command, and return its peak too."""
    peak, end = 0, time.monotonic() + SLOWEST
    while started.is_alive() and time.monotonic() < end:
        with suppress(OSError):
            lines = Path(f"/proc/{started.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.02)
    return started.wait(1.0), peak


def _aborted(ended: Ended | None) -> bool:
    """Return true where the C library ended the process, which could clean up as little as one that is killed."""
    return ended is not None and ended.code in (127, 134) and any(words in ended.stderr for words in ABORTS)


def _fault(ended: Ended | None, peak: int, mustn: Sequence[int] = ()) -> str | None:
    """Return the fault of a command that may be refused with one error, though not with those codes."""
    if ended is None:
        return "hang"
    if _aborted(ended):
        return None
    if ended.traceback:
        return ended.traceback
    if peak > MOST:
        return f"memory: {peak / GIB:.1f} GiB"
    said = ended.stderr.count("error:")
    right = said == 0 if ended.code == 0 else ended.code in (1, 2) and said == 1
    return None if right and ended.code not in mustn else f"exit {ended.code}, {said} errors: {ended.stderr[-150:]}"


def _sized(kind: str, name: str, own: Path) -> tuple[str | None, int]:
    """Run a command on data of an odd size."""
    ended, peak = _watch(_start_on(kind, name, own))
    fault = _fault(ended, peak, mustn=(1, 2) if kind == MANY else ())
    if fault is None and kind == MANY:
        fewer = _watch(_start_on(FEW, name, own / "fewer"))[1]
        fault = None if peak < fewer + FLAT else f"memory: {fewer / GIB:.2f} GiB, {peak / GIB:.2f} of ten times as many"
    return fault or left_over(own), peak


def _start_on(kind: str, name: str, own: Path) -> Started:
    count, side, classes = SIZES[kind]
    own.mkdir(exist_ok=True)
    draw, names = np.random.default_rng(0), [f"class {place}" for place in range(classes)]
    net, data = save_net(own / "net.safetensors", names), own / "data.npz"
    pixels = draw.integers(0, 255, (count, side, side, 3), np.uint8)
    np.savez(data, images=pixels, labels=draw.integers(0, classes, count), classes=np.array(names))
    line = WORK[name].format(net=net, data=data)
    return start(f"{line} -o {own / 'out'} --device cpu", own, own / "streams")


def _loaded(place: Path, kind: str, name: str, own: Path, chance: random.Random) -> tuple[str | None, int]:
    """Run a command on a machine that has little left for it."""
    output = own / "out"
    if kind == "beside itself":
        return _beside(place, name, output, own), 0
    if kind == "little memory":
        limit = partial(_limit, int(chance.uniform(0, 0.3) * GIB))
        ended, peak = _watch(start(typed(name, output), place, own / "streams", prepare=limit))
        fault = _fault(ended, peak)
        if _aborted(ended):
            return fault, peak
        done = ended is not None and ended.code == 0
    else:
        more = " --batch-size 1" if kind == "batch of one" else ""
        with _busy(2 if kind == "busy machine" else 0):
            ended, peak = _watch(start(typed(name, output) + more, place, own / "streams"))
        fault, done = _fault(ended, peak, mustn=(1, 2)), kind == "busy machine"
    return fault or left_over(own) or (difference(place, name, output) if done else None), peak


def _limit(size: int) -> None:
    """Leave this process so much more memory than it has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + size, has + size))


@contextmanager
def _busy(count: int) -> Iterator[None]:
    spin = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spin:
            process.kill()
            process.wait()


def _beside(place: Path, name: str, output: Path, own: Path) -> str | None:
    """Run a command several times at once with the same output: one has it, the others are told so."""
    all_started = [start(typed(name, output), place, own / f"streams-{number}") for number in range(BESIDE)]
    all_ended = [started.wait(SLOWEST) for started in all_started]
    if fault := next((fault for ended in all_ended if (fault := _fault(ended, 0))), None):
        return fault
    codes = sorted(ended.code for ended in all_ended if ended is not None)
    if codes != [0] + [2] * (BESIDE - 1):
        return f"exit codes {codes}"
    return left_over(own) or difference(place, name, output)
