"""Measure the CPU seconds of `stochx --help` and of completions above `import typer, rich`: medians, alternated."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

REPEATS = 15
STOCHX = [sys.executable, "-c", "from stochx.cli import main; main()"]
LINE = "stochx explain -m smoothtaylor:si"
FISH = {"_STOCHX_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": LINE}
COMMANDS = {
    "import typer, rich": ([sys.executable, "-c", "import typer, rich"], {}, ""),
    "stochx --help": ([*STOCHX, "--help"], {}, "explain"),
    "stochx explain --help": ([*STOCHX, "explain", "--help"], {}, "--method"),
    "completion, bash": (
        STOCHX,
        {"_STOCHX_COMPLETE": "complete_bash", "COMP_WORDS": LINE, "COMP_CWORD": "3"},
        "smoothtaylor:sigma=",
    ),
    "completion, fish, zsh": (STOCHX, FISH, "smoothtaylor:sigma="),
}


def cpu_seconds(command: list[str], more: dict[str, str], expected: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert expected in done.stdout, f"{command} with {more} says {done.stdout}{done.stderr}"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            times[name].append(cpu_seconds(*command))
    floor = statistics.median(times["import typer, rich"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:24} {median:.3f} s CPU, {median - floor:+.3f} s")


if __name__ == "__main__":
    main()
