"""Signals that end a process: the first unwinds it through everything that has something to save, a second does not.

Python raises `Stopped` wherever the main thread is, and loses it in finalisers, callbacks of C and some imports; so
`check` raises it again between batches, and `honoured` at the end. A library user's signals are left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from stochx.background import Thread

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE = 0.5  # seconds that a second signal leaves to what the first has begun; torchrun passes on what a terminal sent
NO_BARS = b"\r\x1b[2K\x1b[?25h"  # erases the line of a bar, and shows the cursor, which bars hide


class Stopped(BaseException):
    """A signal that ends the process.

    `resumable` says whether `--resume` finds something to continue; None for a command that has no such option. `said`
    is true where another rank has told the user why all end.
    """

    resumable: bool | None = None
    said = False

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "terminated")
        self.exit_code = 128 + number


_stopped: Stopped | None = None
_saving = 0  # blocks that have something to save
_holding, _held = 0, False  # blocks at whose end a signal is raised; whether one waits for that
_waiting = False  # for other processes, in C


def listen() -> None:
    """From now on the first signal raises `Stopped`, and a second one ends the process."""
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores the last one
            signal.signal(number, _stop)
    sys.unraisablehook = _say_unraisable
    if sys.platform != "win32":
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        with contextlib.suppress(RuntimeError):  # the system has no room for a thread: a second signal has to wait
            Thread(lambda: _await_second(reading), name="signals").start()


def rest() -> None:
    """Leave signals to the system, which ends the process by them: Python is about to leave, and catches no more.

    After a signal, when all is unwound, the process ends here.
    """
    with contextlib.suppress(Stopped):  # of a signal at this very moment
        for number in SIGNALS:
            if signal.getsignal(number) is _stop:
                signal.signal(number, signal.SIG_DFL)
    if _stopped is not None:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(_stopped.exit_code)


def check() -> None:
    """Raise `Stopped` again if there was a signal."""
    if _stopped is not None:
        raise _stopped


@contextlib.contextmanager
def honoured() -> Iterator[None]:
    """End the block by `Stopped` if there was a signal, whatever became of the one that was raised in it."""
    try:
        yield
    finally:
        check()


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Let a signal unwind the block, come what may: it has something to save."""
    global _saving
    _saving += 1
    try:
        yield
    finally:
        _saving -= 1


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let a signal wait for the end of the block: it makes, or removes, what would be left if it were unwound."""
    global _holding
    if threading.current_thread() is not threading.main_thread():  # where signals raise nothing
        yield
        return
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        _raise_held()


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Let a signal unwind this part of a block that holds it."""
    global _holding
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _holding -= 1
    try:
        _raise_held()
        yield
    finally:
        _holding += 1


def _raise_held() -> None:
    global _held
    if _held and _holding <= 0 and _stopped is not None:
        _held = False
        raise _stopped


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Let a signal end the process where it waits for others in C, which no exception reaches; nothing is saved yet."""
    global _waiting
    if signal.getsignal(signal.SIGTERM) is not _stop or sys.platform == "win32":
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which goes to the thread that awaits them: C prints a traceback
    _waiting = True
    try:
        yield
    finally:
        _waiting = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped`, once; an import is left at once, as modules in C swallow errors, or abort the process."""
    global _stopped, _held
    if _stopped is None:
        _stopped = Stopped(number)
        if _holding > 0:
            _held = True
            return
        if not _saving and _imports(frame):
            say(_stopped)
            os._exit(_stopped.exit_code)
        raise _stopped


def _imports(frame: FrameType | None) -> bool:
    """Return whether a frame, or one that called it, is of Python's own code that imports."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def say(stopped: Stopped, again: bool = False) -> None:
    """Erase bars, and print what ends the process, unless that would be `again`; of several ranks one does."""
    message = "" if again or os.environ.get("RANK", "0") != "0" else f"error: {stopped}\n"
    with contextlib.suppress(OSError):  # of a terminal that is gone
        os.write(2, (NO_BARS if os.isatty(2) else b"") + message.encode())


def _say_unraisable(unraisable: Any) -> None:
    """Print what Python swallows as ever, except for `Stopped`, which is raised again."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)


def _await_second(reading: int) -> None:
    """Leave on a second signal, also while the main thread is where no exception reaches it."""
    seen = list[int]()
    while len(seen) < (1 if _waiting else 2):
        seen += [number for number in os.read(reading, 1) if number in SIGNALS]
    time.sleep(GRACE)
    say(Stopped(seen[0]), again=_stopped is not None)
    os._exit(128 + seen[0])
