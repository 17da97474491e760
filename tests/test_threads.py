"""Threads are as many as the CPUs that a process may use, by affinity and by the quotas of its control groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from stochx.catalog import MODELS
from stochx.engine.network.weights import save
from stochx.engine.threads import configure_threads, usable_cpus

V2 = "30 23 0:26 {top} {folder} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 23 0:29 {top} {folder} rw,nosuid shared:4 - cgroup cgroup rw,{controllers}\n"


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight CPUs, all of them usable."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


def proc(place: Path, groups: str, mounts: str) -> Path:
    """A folder like /proc/self."""
    folder = place / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text("22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n" + mounts)
    return folder


def v2(place: Path, limits: dict[str, str], path: str = "/pod/box", top: str = "/") -> Path:
    """Hierarchy of version 2 with these limits by folder, and the process at `path`."""
    for name, limit in limits.items():
        (place / "cgroup" / name).mkdir(parents=True, exist_ok=True)
        (place / "cgroup" / name / "cpu.max").write_text(limit + "\n")
    return proc(place, f"0::{path}\n", V2.format(top=top, folder=place / "cgroup"))


def v1(place: Path, quota: int, controllers: str = "cpu,cpuacct") -> Path:
    """Hierarchies of version 1, that of `controllers` with a quota for the process."""
    group = place / "cpu" / "box"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    mounts = V1.format(top="/", folder=place / "memory", controllers="memory")
    mounts += V1.format(top="/", folder=place / "cpu", controllers=controllers)
    return proc(place, f"4:memory:/other\n3:cpuset:/\n2:{controllers}:/box\n0::/\n", mounts)


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [
        ({"pod/box": "max 100000"}, 8),
        ({"pod/box": "300000 100000"}, 3),
        ({"pod/box": "250000 100000"}, 2),
        ({"pod/box": "50000 100000"}, 1),
        ({"pod/box": "1600000 100000"}, 8),
        ({"pod/box": "300000 100000", "pod": "200000 100000"}, 2),
        ({"pod/box": "max 100000", "pod": "max 100000", "": "500000 100000"}, 5),
        ({"pod/box": "max 100000", "neighbour": "100000 100000"}, 8),
        ({"pod/box": "nonsense"}, 8),
    ],
)
def test_the_smallest_quota_of_a_group_and_its_ancestors_counts(limits, cpus, tmp_path, eight):
    assert usable_cpus(v2(tmp_path, limits)) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(-1, 8), (400_000, 4), (150_000, 1)])
@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
def test_quotas_of_version_1_count(quota, cpus, controllers, tmp_path, eight):
    assert usable_cpus(v1(tmp_path, quota, controllers)) == cpus


def test_other_controllers_of_version_1_grant_no_cpus(tmp_path, eight):
    assert usable_cpus(v1(tmp_path, 100_000, "cpuset")) == 8


@pytest.mark.parametrize(
    ("path", "top"), [("/", "/"), ("/docker/box", "/docker/box"), ("/../elsewhere", "/"), ("/elsewhere", "/docker/box")]
)
def test_a_container_sees_its_own_group_at_the_mount(path, top, tmp_path, eight):
    assert usable_cpus(v2(tmp_path, {"": "200000 100000"}, path, top)) == 2


def test_folders_may_have_spaces(tmp_path, eight):
    place = tmp_path / "with space"
    folder = v2(place, {"pod/box": "200000 100000"})
    mounts = (folder / "mountinfo").read_text().replace("with space", "with\\040space")
    (folder / "mountinfo").write_text(mounts)
    assert usable_cpus(folder) == 2


def test_affinity_counts_where_it_grants_less(tmp_path, eight, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 7})
    assert usable_cpus(v2(tmp_path, {"pod/box": "600000 100000"})) == 3


def test_a_system_without_groups_or_affinity_has_its_cpus(tmp_path, eight, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cpus(tmp_path / "nowhere") == 8


@pytest.mark.parametrize(
    ("before", "threads"),
    [
        ({}, "4"),
        ({"OMP_NUM_THREADS": "6"}, "6"),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, "1"),
        ({"LOCAL_WORLD_SIZE": "2"}, "2"),
        ({"LOCAL_WORLD_SIZE": "3"}, "1"),
        ({"LOCAL_WORLD_SIZE": "16"}, "1"),
        ({"LOCAL_WORLD_SIZE": ""}, "4"),
    ],
)
def test_ranks_share_the_usable_cpus_unless_the_user_says_otherwise(before, threads, tmp_path, eight):
    environment = dict(before)
    configure_threads(environment, v2(tmp_path, {"pod/box": "400000 100000"}))
    assert environment == {**before, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}


def test_torch_chooses_where_all_cpus_are_usable(tmp_path, eight):
    environment = {"OMP_WAIT_POLICY": "ACTIVE"}
    configure_threads(environment, v2(tmp_path, {"pod/box": "max 100000"}))
    assert environment == {"OMP_WAIT_POLICY": "ACTIVE"}


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(
            "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
            marks=pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system"),
        ),
        "from stochx.engine import threads; threads.usable_cpus = lambda proc: 1",
    ],
    ids=["affinity", "quota"],
)
def test_a_command_that_may_use_one_cpu_has_one_thread(limit, tmp_path):
    save(tmp_path / "net.safetensors", MODELS.make("convnet:width=4")(3).eval())
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    command = ["explain", "a.png", "-m", "ig:steps=4", "--model", "net.safetensors", "--json"]
    program = f"{limit}\nimport sys; sys.argv = ['stochx', *{command!r}]\nfrom stochx.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["threads"] == 1


def test_each_worker_of_the_suite_computes_in_one_thread():
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
