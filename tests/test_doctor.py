"""`stochx doctor` finds what is there, says what is missing, and keeps secrets."""

from __future__ import annotations

import json
import mmap
import sys
from importlib import metadata

import pytest
import torch
from support import stochx

from stochx.engine.memory import available_memory, resident_memory, total_memory
from stochx.tasks import doctor

SECRET = "hunter2"


def examine(monkeypatch, tmp_path, *args):
    """Run the command beside a data folder with a part of CIFAR-10, and a cache with the weights of ResNet-18."""
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    for file in ("data/cifar10/test_labels.npy", "torch/hub/checkpoints/resnet18-f37072fd.pth"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    places = {"STOCHX_DATA": str(tmp_path / "data"), "TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path)}
    return stochx("doctor", *args, env={"STOCHX_TOKEN": SECRET, **places})


@pytest.fixture
def rows(monkeypatch, tmp_path):
    done = examine(monkeypatch, tmp_path, "--json")
    assert done.returncode == 0 and SECRET not in done.stdout + done.stderr
    return {(row["topic"], row["name"]): row for row in json.loads(done.stdout)["results"]}


def test_what_is_there_is_found_and_what_is_missing_has_a_remedy(rows, tmp_path):
    assert rows["version", "torch"]["value"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert rows["data", "cifar10"]["value"] == str(tmp_path / "data" / "cifar10")
    missing = rows["data", "cifar100"]
    assert (missing["value"], missing["state"]) == ("not found", "missing") and "STOCHX_DATA" in missing["hint"]
    assert rows["weights", "torchvision"]["value"].startswith("resnet18 in ")
    assert rows["environment", "STOCHX_TOKEN"]["value"] == "is set"
    assert (
        rows["speed", "convolution, fp32"]["value"] > 0 and rows["speed", "matrix product, bf16"]["unit"] == "GFLOP/s"
    )


def test_a_broken_package_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import fails
    monkeypatch.setattr(metadata, "version", refuse_versions)
    done = examine(monkeypatch, tmp_path, "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)["results"]}
    assert done.returncode == 1 and rows["torchvision"]["state"] == "broken"
    assert rows["torchvision"]["value"].startswith("ModuleNotFoundError: ") and "install" in rows["torchvision"]["hint"]
    assert (rows["numpy"]["value"], rows["numpy"]["state"]) == ("of unknown version", "ok")


def refuse_versions(name):
    raise metadata.PackageNotFoundError(name)


def test_a_data_folder_that_is_not_there_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    done = stochx("doctor", env={"STOCHX_DATA": str(tmp_path / "typo")})
    assert done.returncode == 1 and "broken" in done.stdout
    assert "check `root`, or the variable STOCHX_DATA" in done.stderr


def test_a_device_without_a_kernel_has_no_speed():
    def refuse():
        raise RuntimeError("not implemented for 'BFloat16'")

    assert doctor._rate(1.0, refuse) is None


def test_memory_is_that_of_the_group_if_it_is_smaller_and_cached_files_are_free(tmp_path):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("1500000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 400000\n")
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(f"30 23 0:26 / {group} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable: 2000 kB\n")
    assert total_memory(tmp_path) == 3_000_000
    assert available_memory(tmp_path, tmp_path / "meminfo") == 3_000_000 - 1_500_000 + 400_000
    (group / "memory.max").write_text("max\n")
    assert total_memory(tmp_path) > 3_000_000 and available_memory(tmp_path, tmp_path / "meminfo") == 2_048_000
    assert available_memory(tmp_path, tmp_path / "absent") is None


def test_what_a_process_occupies_grows_with_what_it_fills():
    with mmap.mmap(-1, 2**26) as block:  # new pages, which no allocator has kept
        before = resident_memory()
        block.write(b"1" * len(block))
        assert resident_memory() - before > 0.5 * len(block)
