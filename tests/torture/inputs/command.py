"""Commands in this process, whose exits and texts are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from support import Done, stochx
from torture.inputs.watch import Fault

CODES = (0, 1, 2, 3)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # no tabs and ends of lines


def command(*words: object, cwd: Path, env: Mapping[str, str] | None = None) -> Done:
    """Run a command; raises `Fault` for an exit that is none, and for texts that no terminal or user should meet."""
    done = stochx(*words, cwd=cwd, env=env)
    if done.returncode not in CODES:
        raise Fault(f"exit {done.returncode}")
    for said in (done.stdout, done.stderr):
        if "Traceback" in said:
            raise Fault(f"traceback: {said.splitlines()[-1]}")
        if found := CONTROL.search(said):
            raise Fault(f"control character {found[0]!r} was printed")
    if "memory ran out" in done.stderr:
        raise Fault("memory: more than the limit")
    if done.returncode == 2 and not done.stdout + done.stderr:
        raise Fault("exit 2 without a word")
    return done
