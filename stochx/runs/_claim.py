"""The folder of a run: chosen, and held against other processes while the run writes to it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator

from stochx.engine.io.store import FolderInUseError, locked
from stochx.engine.world import World
from stochx.interrupts import saving
from stochx.settings.base import Settings
from stochx.settings.folders import Output, is_filled


@contextlib.contextmanager
def claimed(settings: Settings, world: World) -> Iterator[Settings]:
    """Settle the folder of a run, and hold it for the block; all ranks use that of the leading one."""
    if not isinstance(settings, Output):
        yield settings
        return
    with saving(), contextlib.ExitStack() as held:
        mine = [_claim(settings, held)] if world.leads else []
        (claim,) = world.gather(mine)
        yield claim


def _claim(settings: Output, held: contextlib.ExitStack) -> Output:
    """Return the settings with their folder, which `held` locks."""
    if settings.output is None and settings.reuses:
        settings = _at(settings, _newest(settings))
    if settings.output is not None:
        held.enter_context(locked(settings.output))
        settings.prepare()  # again: another run may have ended in between
        return settings
    for number in itertools.count(_newest(settings) + 1 if is_filled(settings.default(1)) else 1):
        settings = _at(settings, number)
        with contextlib.suppress(FolderInUseError):
            held.enter_context(locked(settings.folder))
            return settings
    raise AssertionError("there is always a next number")


def _newest(settings: Output) -> int:
    """Return the number of the newest default folder with files; 1 where there is none."""
    numbers = [1]
    for path in settings.default(1).parent.glob(f"{settings.command}-*"):
        number = path.name.removeprefix(f"{settings.command}-")
        if number.isdecimal() and is_filled(path):
            numbers.append(int(number))
    return max(numbers)


def _at(settings: Output, number: int) -> Output:
    return dataclasses.replace(settings, output=settings.default(number))
