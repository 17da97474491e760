"""Threads of a process: as many as the CPUs that it may use, sleeping while they wait."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

SELF = Path("/proc/self")


def configure_threads(environment: MutableMapping[str, str], proc: Path = SELF) -> None:
    """Set the number of torch's threads, and make them sleep while they wait; call it before torch is imported.

    `OMP_NUM_THREADS` becomes this process's share of `usable_cpus` among the ranks of its machine. The user's own
    setting stays. If every CPU is usable, torch chooses itself, as it knows which CPUs share a core.
    """
    # With spinning threads, small networks are ten times slower beside another process on few cores.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    ranks = environment.get("LOCAL_WORLD_SIZE", "")
    share = usable_cpus(proc) // max(1, int(ranks) if ranks.isdecimal() else 1)
    if not environment.get("OMP_NUM_THREADS") and share < (os.cpu_count() or 1):
        environment["OMP_NUM_THREADS"] = str(max(1, share))


def usable_cpus(proc: Path = SELF) -> int:
    """Count the CPUs that this process may use by its affinity and the quotas of its control groups, at least 1.

    A quota of 2.5 CPUs counts as 2: a third thread would be throttled while the others wait for it.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(proc)])))


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the CPU quotas of the process's control groups and their ancestors; nothing where there is no limit."""
    for group in groups(proc, "cpu"):
        limit = _read(group / "cpu.max").split()  # version 2: `QUOTA PERIOD` or `max PERIOD`
        if not limit:
            limit = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]  # -1: no limit
        if all(number.isdecimal() for number in limit) and len(limit) == 2 and int(limit[1]):
            yield int(limit[0]) / int(limit[1])


def groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of control groups (v1 and v2) that may limit `cpu` or `memory`, and of their ancestors."""
    paths: dict[str, PurePosixPath] = {}  # by type of hierarchy; version 2 has a single one, without controllers
    for line in _read(proc / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in _read(proc / "mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and controller not in options.split(",")):
            continue
        top, folder = map(_unescape, mount.split()[3:5])
        # In a container the group may be the root of the mount, with a path outside of it.
        group = paths[kind]
        below = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
        yield from (Path(folder, part) for part in (below, *below.parents))


def _unescape(path: str) -> str:
    """Decode a path of mountinfo, where a space is `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:  # not Linux, no such controller, or no permission: no known limit
        return ""
