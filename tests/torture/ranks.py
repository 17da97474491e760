"""Several ranks of which one is lost, is signalled, or was started wrongly: all end, with one sentence, and resume."""

from __future__ import annotations

import random
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import TCPStore
from torture.commands import RUNS, Ended, Started, difference, left_over, length_of, prepared, start, typed
from torture.outcomes import Outcome

NAMES = "train", "distill", "fsc-train", "attack", "explain", "score"
KINDS = "killed rank", "signal to one", "killed rank", "signal to all", "usage error"
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
WRONG = "--no-such-option 3", "--seed many", "--device tpu", "--batch-size 0"
ALL = 60.0  # seconds in which all ranks end
NOTICED = 0.1, 20.0  # seconds after which `torchrun`, or a slower supervisor, ends the others
TRIES = 8
DRAWS = {"distill"}  # every rank has noise of its own
_store: TCPStore | None = None  # of the ranks that run


@dataclass(frozen=True)
class Case:
    """A command on `ranks` ranks, of which `victim` is met at a share of the processor's time; then it is resumed."""

    name: str
    kind: str
    ranks: int
    victim: int
    signal: signal.Signals
    moment: float
    noticed: float
    resumed: int
    wrong: str


def case(seed: int, number: int) -> Case:
    """Return the case of a number: all commands, then all again with the next kind."""
    chance = random.Random(f"{seed} {number}")
    part, place = divmod(number, len(NAMES))
    kind, ranks = KINDS[(part + place) % len(KINDS)], chance.choice((2, 3))
    sent = signal.SIGKILL if kind == "killed rank" else chance.choice(SIGNALS)
    moment, noticed, resumed = chance.random(), chance.choice(NOTICED), chance.choice((1, 2, 3))
    return Case(
        NAMES[place], kind, ranks, chance.randrange(ranks), sent, moment, noticed, resumed, chance.choice(WRONG)
    )


class Ranks:
    """Commands under several ranks; `seconds` are those from what happens to the end of all ranks."""

    name, title = "ranks", "ranks"
    total = len(NAMES) * len(KINDS) * 6
    short = 4

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        """Run the cases."""
        place = prepared(folder.parents[1])
        for number in numbers:
            this, own = case(seed, number), folder / str(number)
            shutil.rmtree(own, ignore_errors=True)
            fault, seconds = (_mistype if this.kind == "usage error" else _torture)(place, this, own)
            if fault is None:
                shutil.rmtree(own, ignore_errors=True)
            yield Outcome(number, this.kind, fault and f"{fault} ({this.name}, {this.ranks} ranks)", seconds)


def _start(line: str, place: Path, own: Path, count: int) -> list[Started]:
    """Start a command in several ranks, as `torchrun` does, whose process holds what they tell each other."""
    global _store
    if count == 1:
        return [start(line, place, own / "streams-0")]
    _store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    machine = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    machine |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    variables = [{**machine, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    return [
        start(line, place, own / f"streams-{rank}", environment={key: str(value) for key, value in each.items()})
        for rank, each in enumerate(variables)
    ]


def _end(ranks: Sequence[Started], until: float) -> list[Ended]:
    """Wait for all ranks; those that are missing did not end in time."""
    return [ended for rank in ranks if (ended := rank.wait(max(0.0, until - time.monotonic()))) is not None]


def _supervise(ranks: Sequence[Started], noticed: float, until: float) -> list[Ended]:
    """Wait for all ranks; the others of one that fails are ended after so many seconds."""
    while all(rank.is_alive() for rank in ranks) and time.monotonic() < until:
        time.sleep(0.01)
    end = time.monotonic() + noticed
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < end:
        time.sleep(0.01)
    for rank in ranks:
        rank.send(signal.SIGTERM)
    return _end(ranks, until)


def _torture(place: Path, this: Case, own: Path) -> tuple[str | None, float]:
    """Return the fault of a case, and the seconds until all ranks had ended."""
    share = this.moment * length_of(place, this.name)
    for _ in range(TRIES):
        ranks = _start(typed(this.name, own / "out"), place, own, this.ranks)
        if ranks[this.victim].reaches(share):
            break
        _end(ranks, time.monotonic() + ALL)
        shutil.rmtree(own)
        share *= 0.7
    else:
        return "ended before it was met", 0.0
    begin = time.monotonic()
    for rank in ranks if this.kind == "signal to all" else [ranks[this.victim]]:
        rank.send(this.signal)
    noticed = ALL if this.kind == "signal to all" else this.noticed
    ended = _supervise(ranks, noticed, begin + ALL)
    seconds = time.monotonic() - begin
    if len(ended) < this.ranks:
        return f"hang of {this.ranks - len(ended)} ranks", seconds
    return _fault(ended, this) or _afterwards(place, this, own), seconds


def _fault(ended: Sequence[Ended], this: Case) -> str | None:
    """Return the fault in what the ranks said, and how they ended."""
    if trace := next((rank.traceback for rank in ended if rank.traceback), None):
        return trace
    if (errors := "".join(rank.stderr for rank in ended).count("error:")) > 1:
        return f"said {errors} times"
    right = {0, 1, 128 + this.signal, 128 + signal.SIGTERM}
    wrong = [rank.code for rank in ended if rank.code not in right]
    return f"exit {wrong[0]}" if wrong else None


def _afterwards(place: Path, this: Case, own: Path) -> str | None:
    """Return the fault of a run that goes on from there, on another number of ranks."""
    ranks = _start(f"{typed(this.name, own / 'out')} --resume", place, own / "again", this.resumed)
    ended = _end(ranks, time.monotonic() + ALL)
    if len(ended) < this.resumed:
        return f"hang of `--resume` on {this.resumed} ranks"
    if failed := next((rank for rank in ended if rank.code), None):
        return f"`--resume` on {this.resumed} ranks: {failed.traceback or failed.stderr[-200:]}"
    return left_over(own) or (None if this.name in DRAWS else difference(place, this.name, own / "out"))


def _mistype(place: Path, this: Case, own: Path) -> tuple[str | None, float]:
    """Return the fault of a command that is refused."""
    begin = time.monotonic()
    line = f"{RUNS[this.name]} -o {shlex.quote(str(own / 'out'))} {this.wrong}"
    ended = _supervise(_start(line, place, own, this.ranks), NOTICED[0], begin + ALL)
    seconds = time.monotonic() - begin
    if len(ended) < this.ranks:
        return "hang", seconds
    said = "".join(rank.stderr for rank in ended).count("error:")
    if said != 1:
        return f"said {said} times", seconds
    wrong = next((rank for rank in ended if rank.code not in (2, 128 + signal.SIGTERM)), None)
    return wrong and (wrong.traceback or f"exit {wrong.code} in place of 2"), seconds
