"""CPU seconds of `stochx --help`, of a completion and of `import typer, rich`: alternated, medians, one thread."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

REPEATS = 15
COMMANDS = {
    "import typer, rich": ([sys.executable, "-c", "import typer, rich"], {}),
    "stochx --help": ([sys.executable, "-m", "stochx", "--help"], {}),
    "completion": (
        [sys.executable, "-m", "stochx"],
        {"_STOCHX_COMPLETE": "complete_bash", "COMP_WORDS": "stochx explain -m smoothtaylor:si", "COMP_CWORD": "3"},
    ),
}


def cpu_seconds(command: list[str], more: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env={**os.environ, **more}, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, (command, more) in COMMANDS.items():
            times[name].append(cpu_seconds(command, more))
    floor = statistics.median(times["import typer, rich"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:20} {median:.3f} s CPU, {median - floor:+.3f} s")


if __name__ == "__main__":
    main()
