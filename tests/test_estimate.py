"""Estimates of `--dry-run`: what is scaled, what is said, and that nothing is written."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace

import pytest
from support import refused, shapes_net, stochx

from stochx import settings
from stochx.cli import app, watch
from stochx.interrupts import Stopped
from stochx.runs import Quiet, _estimate, execute
from stochx.runs._pilots import Measured, Stage
from stochx.runs.document import Results
from stochx.tables.quantities import duration, rate, size

DATA = "shapes:size=32,classes=3,count=60"


def planned(command):
    """Return the stages of a dry run, by name, and its document."""
    document = execute(command, Quiet()).document
    rows = {row["stage"]: row for row in document["results"]}
    assert rows.pop("all")["seconds"] == pytest.approx(sum(row["seconds"] for row in rows.values()), abs=0.05)
    assert document["estimate"]["memory"] > 2**20
    return rows, document


def pilot(command, images, seconds):
    sample = {"total": 1000, "count": images}
    return Measured(command, {"sample": sample}, {"attacking": Stage(images, seconds)}, 0.0, 0)


def test_batches_take_a_part_that_is_the_same_for_all_sizes_and_a_part_for_each_image():
    command = settings.Attack(model="net.pt", limit=640, dry_run=True)
    pilots = [pilot(command, n, 3 + 0.5 * n) for n in (2, 8)]
    assert _estimate._batches(command, pilots, "attacking") == pytest.approx(640 / 64 * 3 + 640 * 0.5)
    noise = [pilot(command, 2, 9.0), pilot(command, 8, 8.0)]
    assert _estimate._batches(command, noise, "attacking") == pytest.approx(640), "no image takes less than nothing"


def test_a_training_goes_at_the_pace_of_its_middle_step():
    stage = Stage(40, 12.0, [[(0.0, 0), (9.0, 10), (10.0, 10), (11.0, 10), (12.0, 10)]])
    assert _estimate._steady(stage) == 4.0


def test_features_of_images_and_episodes_of_a_few_shot_test_are_counted_apart():
    command = settings.FscTest(model="net.pt", shot=(1,), way=2, queries=4, episodes=100, dry_run=True)
    small = settings.FscTest(model="net.pt", shot=(1,), way=2, queries=4, episodes=4)
    visit = [(0.0, 0), (0.0, 20), (1.0, 5), (2.0, 5), (4.0, 4)]  # 20 images in no episode, 10 images, 4 episodes
    seconds = _estimate._episodes(command, Measured(small, {}, {}, 0.0, 0), Stage(34, 4.0, [visit]))
    assert seconds == pytest.approx(2 * 30 / 10 + 2 * 100 / 4)


@pytest.mark.parametrize(("draws", "shared"), [(50, 9), (5, 1)])
def test_a_plane_takes_a_part_for_each_point_whose_draws_neighbours_of_a_noisy_network_share(draws, shared):
    command = settings.Boundary(models=("teacher.pt", "student.pt"), resolution=180, draws=draws, dry_run=True)
    pilots = list[Measured]()
    for side in (24, 48):
        rows = [
            {"plane": "p", "disagreement": None, "seconds": 1 + 0.01 * side**2},
            {"plane": "p", "disagreement": 0.1, "seconds": 5 + 0.09 * side**2},
            {"plane": "all", "disagreement": 0.1, "seconds": 1000.0},
        ]
        pilots.append(Measured(replace(command, resolution=side), {"results": rows}, {}, 0, 0))
    assert _estimate._grid(command, pilots) == pytest.approx(6 + (0.01 + 0.09 / shared) * 180**2)


def test_an_attack_is_estimated_and_nothing_is_written(tmp_path):
    out = tmp_path / "run"
    done = stochx(
        "attack", shapes_net(tmp_path), "--data", DATA, "-a", "fgsm", "--limit", 11, "--checks", "none",
        "-o", out, "--dry-run", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert "<td" in Results(document)._repr_html_()
    rows = {row["stage"]: row for row in document["results"]}
    assert done.returncode == 0 and not out.exists() and document["command"] == "attack"
    assert rows["attacking"]["items"] == 11 and rows["all"]["seconds"] == pytest.approx(
        document["estimate"]["seconds"], abs=0.1
    )


def test_an_interrupted_estimate_offers_nothing_to_resume(tmp_path, monkeypatch):
    (tmp_path / "stochx-out" / "attack").mkdir(parents=True)
    (tmp_path / "stochx-out" / "attack" / "records.jsonl").write_text("{}\n")  # of an earlier run
    monkeypatch.chdir(tmp_path)

    def interrupted(*arguments):
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(_estimate, "estimate", interrupted)
    with pytest.raises(Stopped) as stopped:
        app(["attack", "net.pt", "--dry-run"], standalone_mode=False)
    assert stopped.value.resumable is None


def test_a_demo_is_not_estimated(tmp_path):
    done = stochx("demo", "--dry-run", "-o", tmp_path / "demo")
    assert done.returncode == 2 and "--dry-run" in done.stderr


def test_the_rest_of_a_run_is_not_estimated():
    refused(lambda: settings.Attack(model="net.pt", resume=True, dry_run=True), "estimates a whole run", "--resume")


def test_a_training_is_estimated_over_all_epochs(tmp_path):
    command = settings.Train(
        data=DATA, arch="convnet:width=4", epochs=7, batch_size=4, limit=24, validation=4, dry_run=True,
        output=tmp_path / "run",
    )  # fmt: skip
    rows, _ = planned(command)
    assert rows["training"]["items"] == 7 * (24 - 4) and rows["testing"]["items"] == 12
    assert not (tmp_path / "run").exists()


def test_a_plane_is_estimated_by_its_points(tmp_path):
    command = settings.Boundary(
        models=(str(shapes_net(tmp_path)),), data=DATA, resolution=48, dry_run=True, output=tmp_path / "run"
    )
    rows, _ = planned(command)
    assert 48 * 24 < rows["predicting"]["items"] <= 48 * 48 + 6 * 98 and not (tmp_path / "run").exists()


def test_a_long_run_is_announced_once_its_pace_is_known(monkeypatch, capsys):
    monkeypatch.setattr(watch, "SURE", 0.01)
    announced = []
    monkeypatch.setattr(watch, "announce", announced.append)
    shown = watch.TerminalWatch(quiet=False, estimated=True)
    with shown.shown(), shown.progress("explaining", 1_000_000) as advance:
        for _ in range(3):
            time.sleep(0.006)
            advance(1)
    (seconds,) = announced
    assert 1_000_000 * 0.006 < seconds < 1_000_000 * 0.2


def test_lines_tell_rate_and_time_left():
    stage = watch.LineStage("explaining", 60)
    assert str(stage) == "explaining: 0 of 60"
    stage.advance(12)
    stage._start -= 6.0
    assert str(stage) == "explaining: 12 of 60, 2.0/s, 24 s left"


def test_quantities_are_said_as_people_say_them():
    assert [duration(s) for s in (3.2, 720, 5.5 * 3600, 86400 * 3)] == ["3 s", "12 min", "5.5 h", "3.0 days"]
    assert (size(120 * 2**20), size(1.4 * 2**30)) == ("120 MiB", "1.4 GiB")
    assert [rate(*pair) for pair in ((812, 1), (31, 10), (6, 60), (3, 7200), (0, 1))] == [
        "812/s", "3.1/s", "6.0/min", "1.5/h", "",
    ]  # fmt: skip
