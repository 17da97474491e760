"""Disks and streams that cannot be written to: one error, no half file, and nothing temporary is left."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from torture.commands import PRINTS, RUNS, Ended, difference, left_over, prepared, run, start, typed
from torture.outcomes import Outcome

WRITERS = [*RUNS, "report"]
DISKS = "full disk", "no inodes", "read-only disk", "file size limit", "vanished folder", "long name"
STREAMS = "closed stdout", "full stdout", "broken pipe", "closed stderr", "closed stdin"
PAIRS = [
    *((name, kind) for name in WRITERS for kind in DISKS),
    *((name, kind) for name in [*WRITERS, *PRINTS] for kind in STREAMS),
]
random.Random(0).shuffle(PAIRS)  # so that the short form has some of everything
CLOCK = 0.02  # seconds by which the times of files are off
LARGE = "64m"
LONGEST = 255  # bytes of a file name


class Disks:
    """Every command that writes, where it cannot."""

    name, title = "disks", "disks"
    total = 4 * len(PAIRS)
    short = 8

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Run the cases."""
        place, mounts = prepared(folder.parents[1]), _mounts(folder)
        for number in numbers:
            name, kind = PAIRS[number % len(PAIRS)]
            kind = kind if mounts or kind not in DISKS[:3] else "file size limit"
            own, chance = folder / str(number), random.Random(f"{seed} {number}")
            shutil.rmtree(own, ignore_errors=True)
            (own / "disk").mkdir(parents=True)
            begin = time.monotonic()
            try:
                fault = (_stream if kind in STREAMS else _disk)(place, name, kind, own, chance)
            finally:
                if mounts:
                    subprocess.run(["umount", "-l", own / "disk"], capture_output=True)
            if fault is None:
                shutil.rmtree(own, ignore_errors=True)
            yield Outcome(number, kind, fault and f"{fault} ({name})", time.monotonic() - begin)


def _mounts(folder: Path) -> bool:
    """Return whether this process may mount disks."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    mounted = _mount(disk, "size=64k")
    if mounted:
        subprocess.run(["umount", disk], check=True)
    return mounted


def _mount(disk: Path, options: str) -> bool:
    try:
        return (
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True).returncode == 0
        )
    except OSError:
        return False


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _disk(place: Path, name: str, kind: str, own: Path, chance: random.Random) -> str | None:
    """Run a command on a bad disk, and go on when it is mended."""
    whole = place / name if name in RUNS else place / "attack"
    share, disk, limit = chance.random(), own / "disk", math.inf
    prepare: Callable[[], object] | None = None
    if kind == "full disk":
        _mount(disk, f"size={4096 + int(share * _size(whole))}")
    elif kind == "no inodes":
        _mount(disk, f"size={LARGE},nr_inodes={2 + int(share * (3 + len(list(whole.rglob('*')))))}")
    elif kind == "read-only disk":
        _mount(disk, f"size={LARGE}")
    elif kind == "file size limit":
        limit = int(share * max(file.stat().st_size for file in whole.rglob("*") if file.is_file()))
        prepare = partial(_limit, limit)
    output = _named(disk, name, chance.randrange(200, 400) if kind == "long name" else 3)
    started = start(typed(name, output), place, own / "streams", prepare=prepare)
    happened = time.time()
    if kind in ("read-only disk", "vanished folder"):
        started.reaches(share * chance.random())
        happened = time.time()
        if kind == "vanished folder":
            shutil.rmtree(output if output.is_dir() else disk, ignore_errors=True)
        else:
            subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True)
    ended = started.wait()
    if (own / "streams" / "stderr").stat().st_size >= limit and ended is not None and ended.code == 1:
        return left_over(disk) or _half(disk)  # the limit is that of its words too
    fault = _fault(ended, own, output, happened)
    if fault is None and kind in DISKS[:3]:
        subprocess.run(["mount", "-o", f"remount,rw,size={LARGE},nr_inodes=9999", disk], capture_output=True)
        fault = _afterwards(place, name, output, own)
    return fault


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _named(disk: Path, name: str, length: int) -> Path:
    return disk / ("o" * length + (".html" if name == "report" else ""))


def _fault(ended: Ended | None, own: Path, output: Path, happened: float) -> str | None:
    """Return the fault of a command that could not write, or just could."""
    if ended is None:
        return "hang"
    if ended.traceback:
        return ended.traceback
    said = ended.stderr.count("error:")
    if ended.code == 0:
        shown = (own / "streams" / "stdout").stat().st_mtime
        there = output.is_file() or (output / "result.json").is_file()
        fault = None if there or shown < happened + CLOCK else "lost: ended with 0 and without a result"
        return fault or (f"said {said} errors, and ended with 0" if said else None)
    if ended.code not in (1, 2) or said != 1 or "hint:" not in ended.stderr:
        return f"exit {ended.code}, {said} errors: {ended.stderr[-150:]}"
    return left_over(own / "disk") or _half(own / "disk")


def _half(folder: Path) -> str | None:
    """Return the fault of a file that was not written whole."""
    for path in folder.rglob("*"):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".png", ".webp"):
                Image.open(path).load()
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    list(arrays.values())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    file.keys()
            elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
                return f"half: {path.name[-40:]}"
        except Exception as error:
            return f"half: {path.name[-40:]}: {error}"
    return None


def _afterwards(place: Path, name: str, output: Path, own: Path) -> str | None:
    """Return the fault of a run that goes on where there is room again."""
    again = run(f"{typed(name, output)}{' --resume' if name in RUNS else ''}", place, own / "again")
    if again is None or again.code:
        return "hang of `--resume`" if again is None else f"`--resume`: {again.traceback or again.stderr[-200:]}"
    return left_over(own / "disk") or (difference(place, name, output) if name in RUNS else None)


def _stream(place: Path, name: str, kind: str, own: Path, chance: random.Random) -> str | None:
    """Run a command with bad streams."""
    output = _named(own / "disk", name, 3)
    ended = run(typed(name, output), place, own / "streams", prepare=partial(_spoil, kind), fresh=chance.random() < 0.2)
    if ended is None:
        return "hang"
    if ended.traceback:
        return ended.traceback
    stands = kind in ("broken pipe", "closed stderr", "closed stdin")  # nobody reads, but nothing failed
    if ended.code != (0 if stands else 1):
        return f"exit {ended.code} in place of {0 if stands else 1}: {ended.stderr[-150:]}"
    if ended.stderr.count("error:") != (0 if stands else 1):
        return f"said {ended.stderr[-150:]}"
    return left_over(own / "disk") or (difference(place, name, output) if name in RUNS and stands else None)


def _spoil(kind: str) -> None:
    if kind.startswith("closed"):
        os.close(("stdin", "stdout", "stderr").index(kind.split()[1]))
    elif kind == "full stdout":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    else:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(writing)
        os.close(reading)
