"""Where commands write: folders of their own, held while they are written to, never overwritten unasked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from support import shapes_net, stochx

from stochx import settings
from stochx.engine.io.files import atomic
from stochx.engine.io.store import FolderInUseError, locked
from stochx.errors import UsageError
from stochx.interrupts import Stopped

QUICK = ("-m", "gradient", "--no-figure", "--model", "net.safetensors")


@pytest.fixture
def here(place, tmp_path):
    for name in ("net.safetensors", "a.png", "b.jpg"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    return tmp_path


def test_commands_without_an_output_folder_do_not_meet(here):
    first, second = (stochx("explain", image, *QUICK, cwd=here) for image in ("a.png", "b.jpg"))
    assert first.returncode == second.returncode == 0, second.stderr
    assert "note: the files are in `stochx-out/explain-2`" in second.stderr
    folders = [here / "stochx-out" / name for name in ("explain", "explain-2")]
    assert [json.loads((folder / "records.jsonl").read_text())["image"] for folder in folders] == ["a.png", "b.jpg"]


def test_resume_without_an_output_folder_continues_the_newest(here):
    for image in ("a.png", "b.jpg"):
        stochx("explain", image, *QUICK, cwd=here)
    done = stochx("explain", "b.jpg", *QUICK, "--resume", "--json", cwd=here)
    assert json.loads(done.stdout)["args"]["output"] == "stochx-out/explain-2"
    assert not (here / "stochx-out" / "explain-3").exists()


@pytest.mark.parametrize("newer", ["net.safetensors", "a.png"])
def test_resume_says_that_results_are_kept_of_files_that_are_newer(here, newer):
    words = ("explain", "a.png", *QUICK, "-o", "run")
    assert stochx(*words, cwd=here).returncode == 0
    assert "newer" not in stochx(*words, "--resume", cwd=here).stderr
    began = (here / "run" / "config.toml").stat().st_mtime
    os.utime(here / newer, (began + 5, began + 5))
    assert f"`{newer}` is newer than the results in `run`" in stochx(*words, "--resume", cwd=here).stderr


@pytest.mark.parametrize(
    "make",
    [
        lambda **files: settings.Explain(images=("a.png",), **files),
        lambda **files: settings.FscExplain(images=("a.png",), model="m", support="s", **files),
        lambda **files: settings.Attack(model="m", **files),
        lambda **files: settings.Demo(**files),
    ],
)
def test_every_command_refuses_a_named_folder_with_files(make, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        make(output=tmp_path).prepare()
    make(output=tmp_path, overwrite=True).prepare()


def test_a_folder_that_is_being_written_to_is_refused(here):
    with locked(here / "out"):
        done = stochx("explain", "a.png", *QUICK, "-o", "out", cwd=here)
    assert done.returncode == 2 and "error: another process writes to `out`" in done.stderr


def test_a_default_folder_that_is_being_written_to_is_left_alone(here):
    with locked(here / "stochx-out" / "explain"):
        done = stochx("explain", "a.png", *QUICK, "--json", cwd=here)
    assert json.loads(done.stdout)["args"]["output"] == "stochx-out/explain-2"


def test_a_lock_dies_with_its_process(tmp_path):
    code = "import pathlib, sys, time; from stochx.engine.io.store import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    with pytest.raises(FolderInUseError), atomic(tmp_path / "deep" / "figure.png") as temporary:
        temporary.write_text("half")
        shutil.copytree(temporary.parent, f"{temporary.parent}.kept")  # as after kill -9
        raise FolderInUseError("stop")
    assert [path.suffix for path in (tmp_path / "deep").iterdir()] == [".kept"]
    assert not [*tmp_path.rglob("figure.png")]
    with locked(tmp_path):
        assert not [*(tmp_path / "deep").iterdir()]


def test_a_run_that_writes_nothing_leaves_nothing(here):
    assert stochx("explain", "a.png", *QUICK, "--target", "9", "-o", "new/deep", cwd=here).returncode == 2
    assert not (here / "new").exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupt_says_what_is_kept(earlier, here, monkeypatch):
    if earlier:
        stochx("explain", "a.png", *QUICK, "-o", "out", cwd=here)

    def stop(*args, **more):
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("stochx.runs.explain.explain", stop)
    done = stochx("explain", "a.png", *QUICK, "-o", "out", *(["--resume"] if earlier else []), cwd=here)
    assert done.returncode == 130 and ("`--resume` goes on" in done.stderr) == earlier
    assert ("nothing was finished, so nothing is kept" in done.stderr) != earlier
    assert (here / "out").exists() == earlier


def test_a_total_counts_what_earlier_runs_have_done(here):
    attack = ("attack", shapes_net(here), "--data", "shapes:size=32,classes=3,count=60", "-a", "fgsm", "-o", "out")
    attack = (*attack, "--checks", "none", "--no-figure", "--save-adversarial", "--json")
    stochx(*attack, "--limit", 5, cwd=here)
    done = stochx(*attack, "--limit", 9, "--resume", cwd=here)
    assert json.loads(done.stdout)["saved"]["images"] == 9 == len([*(here / "out" / "adversarial").iterdir()])
    again = stochx(*attack, "--limit", 9, "--resume", cwd=here)
    assert json.loads(again.stdout)["saved"]["images"] == 9


def test_an_image_that_lacks_a_method_is_explained_again(here):
    words = ("explain", "a.png", *QUICK, "-m", "sobel", "-o", "run", "--json")
    document = json.loads(stochx(*words, cwd=here).stdout)
    records = here / "run" / "records.jsonl"
    first, _ = records.read_text().splitlines()
    for left in (f"{first}\n", f'{first}\n{{"index": 0, "ima'):  # a crash after a line, and within the next
        records.write_text(left)
        again = json.loads(stochx(*words, "--resume", cwd=here).stdout)
        assert [row["method"] for row in again["results"]] == ["gradient", "sobel"]
        assert [row["error"] for row in again["results"]] == [row["error"] for row in document["results"]]
        assert len(records.read_text().splitlines()) == 2


def test_a_record_that_was_edited_stops_the_run_before_it_begins(here):
    words = ("explain", "a.png", *QUICK, "-o", "run")
    stochx(*words, cwd=here)
    records = here / "run" / "records.jsonl"
    records.write_text(edited := records.read_text().replace('"target": ', '"target": 0.'))
    done = stochx(*words, "--resume", cwd=here)
    assert done.returncode == 2 and "in line 1: Expected `int`, got `float`, at `target`" in done.stderr
    assert records.read_text() == edited
