"""Files are written whole or not at all, and whatever keeps them from it is one error that leaves the old file."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from support import refused, stochx

from stochx import interrupts
from stochx.engine.io.files import append_bytes, atomic, write_text
from stochx.engine.io.scratch import scratch
from stochx.engine.io.store import RunFolder
from stochx.engine.io.tensors import save_tensors
from stochx.errors import WriteError
from stochx.interrupts import Stopped
from stochx.reports.arrays import save_arrays
from stochx.reports.figure import save_figure
from stochx.reports.inputs import _save_webp, save_input

MOST = 4096  # bytes of a file, where the disk is full beyond
NOISE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def full_disk():
    """Let no file grow beyond a few kilobytes in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def draw(path):
    figure = Figure()
    figure.subplots().imshow(NOISE[0])
    save_figure(path, figure)


WRITERS = {
    "a.json": lambda path: write_text(path, "é" * MOST),
    "a.npz": lambda path: save_arrays(path, {"map": NOISE.numpy(), "last": np.zeros(3)}),
    "a.safetensors": lambda path: save_tensors(path, {"weight": NOISE}, {}),
    "input.png": lambda path: save_input(path, NOISE),
    "a.webp": lambda path: _save_webp(path, Image.fromarray((NOISE[0].numpy() * 255).astype(np.uint8))),
    "a.png": draw,
    "a.pdf": draw,
    "a.svg": draw,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_error_and_leaves_the_old_file(name, tmp_path):
    path = tmp_path / "run" / name
    WRITERS[name](path)
    before = path.read_bytes()
    with full_disk(), pytest.raises(WriteError, match=f"cannot write `.*{name}`: File too large") as caught:
        WRITERS[name](path)
    assert caught.value.exit_code == 1 and caught.value.hint
    assert [file.name for file in path.parent.iterdir()] == [name] and path.read_bytes() == before


def test_a_disk_that_turns_read_only_is_one_error_and_leaves_the_old_file(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WriteError, match=r"cannot write `.*a.txt`: Read-only file system"):
        write_text(tmp_path / "a.txt", "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_name_that_is_too_long_is_one_error(tmp_path):
    with pytest.raises(WriteError, match="File name too long"):
        write_text(tmp_path / ("x" * 300), "text")
    assert not [*tmp_path.iterdir()]


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "a.txt", "text")
    save_tensors(tmp_path / "a.safetensors", {"weight": NOISE}, {})
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_records_are_appended_together_or_not_at_all(tmp_path):
    run = RunFolder(tmp_path, {"seed": 0})
    run.append([{"index": 0}])
    with full_disk(), pytest.raises(WriteError, match=r"cannot write `.*records.jsonl`: File too large"):
        run.append([{"index": i, "image": "é" * 900} for i in range(1, 5)])
    run.append([{"index": 5}])
    assert (tmp_path / "records.jsonl").read_text() == '{"index": 0}\n{"index": 5}\n'


def test_what_a_signal_cuts_off_is_taken_back(tmp_path, monkeypatch):
    def stop(*given):
        raise Stopped(signal.SIGINT)

    append_bytes(tmp_path / "a.txt", b"old\n")
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(os, "fsync", stop)
        append_bytes(tmp_path / "a.txt", b"new\n")
    assert (tmp_path / "a.txt").read_text() == "old\n"
    with pytest.raises(Stopped), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        stop()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old\n"]


def test_a_folder_that_is_gone_is_one_error(tmp_path):
    run = RunFolder(tmp_path / "run", {"seed": 0})
    run.append([{"index": 0}])
    shutil.rmtree(tmp_path / "run")
    write_text(tmp_path / "run" / "next.txt", "a file that makes the folder anew")
    with pytest.raises(WriteError, match=r"`.*run` was removed while the command wrote to it"):
        run.append([{"index": 1}])
    with pytest.raises(WriteError, match="was removed"):
        run.finish([{"index": 0}], {})


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs a system that reserves space")
def test_a_scratch_tensor_has_its_space_before_it_is_written_to(tmp_path, monkeypatch):
    def refuse(file, start, size):
        raise OSError(errno.ENOSPC, f"{size} bytes are too many")

    monkeypatch.setattr("stochx.engine.io.scratch.IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    refused(lambda: scratch((3, 5), torch.float32), "60 bytes are too many", "TMPDIR")
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_is_full_ends_a_command_with_one_error(place, tmp_path):
    with full_disk():
        done = stochx(
            "explain",
            place / "a.png",
            "-m",
            "gradient",
            "--model",
            place / "net.safetensors",
            "-o",
            "out",
            cwd=tmp_path,
        )
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write `out/a.gradient.npz`: File too large")
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]


def test_a_signal_that_was_swallowed_ends_a_run(place, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "_stopped", Stopped(signal.SIGTERM))
    images = [place / "a.png", place / "b.jpg"]
    done = stochx("explain", *images, "-m", "gradient", "--model", place / "net.safetensors", "-o", "out", cwd=tmp_path)
    assert done.returncode == 143 and "nothing was finished, so nothing is kept" in done.stderr
    assert not [*tmp_path.iterdir()]


# Standard streams -----------------------------------------------------------------------------------------------------


def run(line, **variables):
    """Run a line of the shell in which `$S` is the command line."""
    environment = os.environ | {"S": f"{sys.executable} -m stochx"} | variables
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("line", ["--version", "list --json", "list --format table", "explain --help"])
def test_a_stdout_that_is_full_is_one_error(line):
    for buffered in ("", "1"):
        done = run(f"$S {line} > /dev/full", PYTHONUNBUFFERED=buffered)
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot write to stdout: No space left on device\nhint: ")
        assert done.stderr.count("\n") == 2


def test_streams_that_are_closed_are_no_traceback():
    done = run("$S list >&-")
    assert done.returncode == 1 and done.stderr.startswith("error: stdout is closed\nhint: ")
    assert run("$S list nothing 2>&-").returncode == 2
    assert run("$S list nothing 2>/dev/full").returncode == 2


@pytest.mark.parametrize("form", ["table", "tsv"])
def test_a_reader_that_leaves_changes_no_exit_code(form):
    done = run(f"$S list --format {form} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("0\n", "")
