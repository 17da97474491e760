"""Nothing that takes long is silent: every stage of every command is shown."""

from __future__ import annotations

import contextlib
import io
import json

from rich.console import Console
from support import shapes_net, stochx

from stochx import settings
from stochx.cli.watch import TerminalWatch
from stochx.engine.passes import count, counting
from stochx.runs import Quiet, execute

DATA = "shapes:size=32,classes=3,count=60"


class Recorder(Quiet):
    """Keeps the stages of a run, with the steps that were announced and made; and the rows that passed."""

    def __init__(self):
        super().__init__()
        self.stages, self.rows = {}, 0

    @contextlib.contextmanager
    def progress(self, label, total=None):
        stage = self.stages.setdefault(label, [total, 0])

        def advance(steps):
            stage[1] += steps

        yield advance

    def passed(self, rows):
        self.rows += rows


def watched(command):
    recorder = Recorder()
    return recorder, execute(command, recorder).document


def trained(tmp_path):
    return settings.Train(
        data=DATA, arch="convnet:width=4", epochs=1, batch_size=10, lr=0.01, limit=7, validation=2, output=tmp_path
    )


def test_training_and_its_final_test_are_shown_and_limited(tmp_path):
    recorder, document = watched(trained(tmp_path / "run"))
    assert document["results"][0]["n"] == 7
    assert recorder.stages["reading images"] == [14, 14] and recorder.stages["testing"] == [7, 7]
    assert "validating" in recorder.stages


def test_distillation_and_its_final_test_are_shown_and_limited(tmp_path):
    student = settings.Distill(
        teacher=str(shapes_net(tmp_path)),
        data=DATA,
        adversarial="none",
        kd="none",
        epochs=1,
        batch_size=4,
        lr=0.01,
        limit=6,
        draws=3,
        output=tmp_path / "run",
    )
    recorder, document = watched(student)
    assert document["results"][0]["n"] == 6
    assert recorder.stages["testing"] == [6 * (3 + 1 + 1)] * 2
    assert recorder.stages["calibrating"] == [2, 2]


def test_few_shot_tests_are_shown_by_image_and_episode(tmp_path):
    shapes = "shapes:classes=6,size=16,count=240"
    few = {"queries": 2, "device": "cpu"}
    training = settings.FscTrain(
        data=(shapes,), backbone="convnet:width=4", size=16, way=2, shot=1, episodes=2, validation=0, guide="none",
        output=tmp_path / "few", **few,
    )  # fmt: skip
    recorder, _ = watched(training)
    images = recorder.stages["reading images"][0]
    assert images and recorder.stages["reading images"] == [images, images]
    model = str(tmp_path / "few" / "model.safetensors")
    test = settings.FscTest(model=model, data=(shapes,), shot=(1, 2), episodes=5, output=tmp_path / "test", **few)
    recorder, _ = watched(test)
    images = recorder.stages["reading images"][0]
    assert recorder.stages["measuring"] == [images + 10, images + 10] and recorder.stages["domains"] == [1, 1]


def test_the_checks_of_an_attack_are_shown(tmp_path):
    attack = settings.Attack(
        model=str(shapes_net(tmp_path)), data=DATA, attack=("fgsm",), limit=9, output=tmp_path / "run"
    )
    recorder, _ = watched(attack)
    assert {"attacking", "checking", "writing"} <= {*recorder.stages}


def test_a_search_for_an_image_is_seen_to_work(place, tmp_path):
    explain = settings.Explain(
        images=(str(place / "a.png"),),
        model=str(place / "net.safetensors"),
        method=("smoothtaylor:roots=4,noise=adaptive,objective=autvc",),
        figure=False,
        output=tmp_path / "run",
    )
    recorder, document = watched(explain)
    assert recorder.rows > 4 * document["results"][0]["evaluations"] > 4


def test_a_pipe_gets_lines_that_say_how_far_the_run_is(place, tmp_path, monkeypatch):
    monkeypatch.setattr("stochx.cli.watch.INTERVAL", 0.01)
    words = ("explain", "a.png", "b.jpg", "-m", "smoothtaylor:roots=600", "--model", "net.safetensors", "--no-figure")
    done = stochx(*words, "-o", tmp_path / "run", cwd=place)
    lines = done.stderr.splitlines()
    assert any(line.startswith("explaining: 0 of 2, ") and " passes, " in line for line in lines), done.stderr
    quiet = stochx(*words, "-o", tmp_path / "quiet", "-q", "--json", cwd=place)
    assert quiet.stderr == "" and len(json.loads(quiet.stdout)["results"]) == 2


def test_a_terminal_shows_the_stages_that_are_open(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr("stochx.cli.output.stderr", lambda: console)
    watch = TerminalWatch(quiet=False)
    with watch.shown():
        with watch.progress("domains", 2) as advance, watch.progress("[b]measuring[/b]"):
            advance(1)
            watch.passed(40)
            shown = [(t.description, t.visible, t.total, t.completed) for t in watch._display._progress.tasks]
            watch._display._progress.refresh()
        after = [(t.description, t.visible) for t in watch._display._progress.tasks]
    assert shown == [("starting", False, None, 0), ("domains", True, 2, 1), ("[b]measuring[/b]", True, None, 0)]
    assert after == [("finishing", True)]
    assert "[b]measuring[/b]" in console.file.getvalue() and "40 passes" in console.file.getvalue()


def test_rows_are_counted_for_those_who_listen():
    heard = []
    count(3)
    with counting(heard.append):
        count(4)
    count(5)
    assert heard == [4]
