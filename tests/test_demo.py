"""The demonstration: its steps are public commands, and its sentences follow from the numbers."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
import typer
from support import stochx

from stochx import settings
from stochx.cli import app
from stochx.cli.build import settings_from
from stochx.errors import UsageError
from stochx.runs import Quiet, demo, run
from stochx.runs._steps import ADAPTIVE, NAMES, NEXT, Step, steps
from stochx.settings import Attack, Boundary, Demo, Explain, FscTest, FscTrain, Report, Score, Train, command_line
from stochx.tables.demo import FINDINGS, NOISY, finding
from stochx.tasks import doubts

COMMANDS = typer.main.get_command(app).commands
STEPS = steps(Demo(output=Path("out"), seed=3))
ODD = (
    Explain(images=("-a.png", "b c.png"), method=("ig", "lrp"), crop=False, include=()),
    Attack(model="--net.pt", eps=0.5, norm="l2", seed=-1, target="-1"),
    Boundary(models=("a.pt", "b.pt"), animate=False, images="-3"),
    Score(maps=Path("maps"), fail_over=("autvc=1.6", "aupc=25"), overwrite=True),
    Train(batch_size=16, lr=1e-05, average=0.999, limit="10%"),
)


def typed(chosen: settings.Settings) -> settings.Settings:
    """The settings that the command line makes of the words that ask for them."""
    _, name, *words = command_line(chosen)
    return settings_from(type(chosen), COMMANDS[name].make_context(name, list(words)).params)


@pytest.mark.parametrize("chosen", [*(s.settings for s in STEPS), *NEXT, *ODD], ids=lambda s: s.command)
def test_the_command_line_of_settings_gives_them_back(chosen):
    assert typed(chosen) == chosen


def test_a_command_line_leaves_out_defaults():
    assert command_line(Attack(model="net.pt")) == ["stochx", "attack", "net.pt"]


def test_each_step_writes_to_a_folder_of_its_own_below_the_demo():
    outputs = [step.settings.output for step in STEPS]
    assert len({*outputs}) == len(STEPS) and {output.parent for output in outputs} == {Path("out")}
    assert [output.name for output in outputs[:-1]] == sorted(output.name for output in outputs[:-1])
    assert [step.name for step in STEPS] == [*FINDINGS] == [*NAMES]


def test_the_seed_of_the_demo_is_that_of_every_step_that_draws():
    assert {step.settings.seed for step in STEPS if hasattr(step.settings, "seed")} == {3}


def test_the_folder_of_the_demo_is_named_in_the_commands_that_read_it():
    read = [word for step in STEPS for word in command_line(step.settings) if word.endswith(".safetensors")]
    written = {str(step.settings.output) for step in STEPS}
    assert read and {str(Path(word).parent) for word in read} <= written


def attack_row(degree: float, robust: float, eot: int, spread: float = 0.1) -> dict:
    return {
        "attack": "pgd",
        "degree": degree,
        "clean": 0.9,
        "robust": robust,
        "low": robust - spread,
        "high": robust + spread,
        "eot": eot,
        "n": 96,
    }


def attacked(*robust: float, verdict: str = "ok", spread: float = 0.1) -> dict:
    """Documents of both attacks, with the accuracies: without noise, honest and naive as trained, twice the noise."""
    off, honest, naive, more = robust
    rows = [attack_row(0, off, 1, spread), attack_row(0, off, 1, spread)]
    rows += [attack_row(1, honest, 4, spread), attack_row(1, naive, 1, spread)]
    rows += [attack_row(2, more, 9, spread), attack_row(2, more, 1, spread)]
    checks = [{"name": "draws", "verdict": verdict}, {"name": "logits", "verdict": "ok"}]
    teacher = {"results": [attack_row(1, 0.02, 1)], "checks": checks}
    return {"attack-teacher": teacher, "attack-student": {"results": rows, "checks": checks}}


@pytest.mark.parametrize(
    ("robust", "expected", "absent"),
    [
        ((0.50, 0.60, 0.66, 0.4), "6.0 points too many", "no weaker"),
        ((0.50, 0.60, 0.60, 0.4), "here it is no weaker", "too many"),
        ((0.65, 0.60, 0.66, 0.4), "The noise itself adds nothing: without it 65.0%", "it adds"),
        ((0.50, 0.60, 0.66, 0.4), "it adds 10.0 points (within the intervals)", "nothing"),
    ],
)
def test_the_sentence_on_the_attack_of_the_student_follows_the_numbers(robust, expected, absent):
    sentence = finding("attack-student", attacked(*robust))
    assert expected in sentence and absent not in sentence and "All 2 checks" in sentence


def test_a_gain_beyond_the_intervals_is_not_doubted():
    assert "it adds 10.0 points." in finding("attack-student", attacked(0.5, 0.6, 0.6, 0.4, spread=0.01))


def test_a_check_that_does_not_pass_is_named():
    assert "do not pass: draws." in finding("attack-student", attacked(0.5, 0.6, 0.6, 0.4, verdict="fail"))


def scored(better: str, p: float | None, **means: float | None) -> dict:
    rows = [{"method": m, "metric": "aupc:draws=5", "better": better, "mean": v, "p": p} for m, v in means.items()]
    explained = {"args": {"method": ["ig", "lrp"]}}
    return {"explain-teacher": explained, "score": {"results": rows, "args": {"metric": ["aupc:draws=5"]}}}


@pytest.mark.parametrize(
    ("p", "verdict"),
    [
        (0.2, "not significantly different (p = 0.2)."),
        (0.01, "significantly worse (p = 0.01)."),
        (None, "not significantly different."),
    ],
)
def test_the_best_method_stands_beside_the_best_control(p, verdict):
    sentence = finding("score", scored("higher", p, ig=0.2, lrp=0.5, centre=0.3, random=0.1))
    assert f"`lrp` has 0.5, the best; of the controls `centre` has 0.3, {verdict}" in sentence
    assert sentence.endswith("Worse than that on average: ig.")


def test_the_verdict_is_that_of_the_test_between_these_two():
    documents = scored("higher", 0.001, ig=0.2, lrp=0.5, centre=0.3, random=0.1)
    rows = {row["method"]: row for row in documents["score"]["results"]}
    rows["lrp"]["p"], rows["centre"]["p"] = None, 0.4
    assert "has 0.3, not significantly different (p = 0.4)." in finding("score", documents)


def test_no_method_is_best_where_a_control_leads():
    sentence = finding("score", scored("lower", 0.01, ig=0.4, lrp=0.5, centre=0.3, random=None))
    assert "a control leads, so that no method is marked best: `centre` has 0.3." in sentence
    assert "Of the methods `ig` has 0.4, significantly worse (p = 0.01)." in sentence
    assert sentence.endswith("Worse than that on average: ig, lrp.")


def explained(smoothgrad: float, *adaptive: tuple[float, float]) -> dict:
    rows = [{"method": "ig", "gap": -0.25, "error": None, "sigma": None}]
    rows += [{"method": "smoothgrad", "gap": None, "error": smoothgrad, "sigma": None}]
    return {"results": rows + [{"method": ADAPTIVE, "gap": None, "error": e, "sigma": s} for s, e in adaptive]}


def test_a_map_is_called_noise_where_a_warning_calls_it_so():
    assert NOISY == doubts.NOISY


def test_maps_that_are_mostly_noise_are_counted():
    documents = {"explain-teacher": explained(0.2, (0.1, 0.4), (0.7, 2.5))}
    documents["explain-student"] = explained(0.1, (0.2, 0.4), (0.3, NOISY))
    teacher, student = finding("explain-teacher", documents), finding("explain-student", documents)
    assert (
        "at most 0.25." in teacher
        and "sigma from 0.10 to 0.70" in teacher
        and "1 of its 2 maps is mostly noise" in teacher
    )
    assert "are steadier" in student and "none of its 2 maps is mostly noise" in student
    documents["explain-student"] = explained(0.3, (0.2, 0.4))
    assert "no steadier" in finding("explain-student", documents)


@pytest.mark.parametrize(
    ("difference", "p", "verdict"),
    [(0.02, 0.4, "shows no difference"), (0.02, 0.01, "the guided one is"), (-0.02, 0.01, "the unguided one is")],
)
def test_the_sentence_on_guidance_follows_the_test(difference, p, verdict):
    row = {"accuracy": 0.4, "accuracy_versus": 0.4 - difference, "way": 5, "shot": 5, "n": 200, "p": p}
    row |= {"difference": difference, "low_difference": difference - 0.01, "high_difference": difference + 0.01}
    assert finding("fsc-test", {"fsc-test": {"results": [row]}}).partition("episodes; ")[2].count(verdict) == 1


SMALL = {"teacher": "shapes:count=120,classes=6,size=16", "few": "shapes:count=180,classes=6,size=16"}


def shrink(step: Step) -> Step:
    """The same step on a few small images."""
    if isinstance(step.settings, Report):
        return step
    few_shot = isinstance(step.settings, FscTrain | FscTest)
    changes: dict[str, object] = {"data": (SMALL["few"],) if few_shot else SMALL["teacher"]}
    declared = {field.name: field.default for field in dataclasses.fields(step.settings)}
    small = {"epochs": 1, "resolution": 6, "draws": 2, "episodes": 2, "queries": 1}
    changes |= {name: value for name, value in small.items() if name in declared}
    if isinstance(step.settings, Attack | Explain | Score):
        changes["limit"] = 6
    if isinstance(step.settings, Attack):
        changes["attack"] = tuple(text.replace("steps=10", "steps=1") for text in step.settings.attack)
    if isinstance(step.settings, Explain | Score):
        changes["method"] = tuple(text.replace(ADAPTIVE, f"{ADAPTIVE},roots=4") for text in step.settings.method)
    return dataclasses.replace(step, settings=dataclasses.replace(step.settings, **changes))


@pytest.fixture
def short(monkeypatch):
    """A demonstration of the teacher alone, on few images."""
    monkeypatch.setattr(demo, "steps", lambda settings: tuple(map(shrink, steps(settings)[:1])))


def test_resume_tells_finished_steps_and_does_not_run_them_again(short, tmp_path, monkeypatch):
    first = stochx("demo", "-o", tmp_path / "demo")
    assert first.returncode == 0, first.stderr
    assert "1/1  Train a teacher" in first.stderr and f"$ stochx train --data {SMALL['teacher']}" in first.stderr
    monkeypatch.setattr(demo, "command", lambda chosen: pytest.fail("a finished step ran again"))
    again = stochx("demo", "-o", tmp_path / "demo", "--resume")
    assert again.returncode == 0 and again.stdout == first.stdout


def test_resume_with_another_seed_is_refused(short, tmp_path):
    assert stochx("demo", "-o", tmp_path / "demo", "-q").returncode == 0
    other = stochx("demo", "-o", tmp_path / "demo", "--resume", "--seed", 1)
    assert other.returncode == 2 and "`seed` `0`, not `1`" in other.stderr


def test_quiet_tells_nothing(short, tmp_path):
    done = stochx("demo", "-o", tmp_path / "demo", "-q")
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith("step\tfinding\tseconds\n")


def test_the_demo_refuses_several_processes(tmp_path):
    @dataclasses.dataclass
    class World:
        size: int = 2

    with pytest.raises(UsageError, match="one process"):
        demo.run(Demo(output=tmp_path), World(), Quiet())


@pytest.mark.slow
def test_every_step_runs_and_its_sentence_is_made(tmp_path, monkeypatch):
    """All steps on few images: what the sentences say is of no use there, but each follows from its document."""
    monkeypatch.setattr(demo, "steps", lambda settings: tuple(map(shrink, steps(settings))))
    document = run(Demo(output=tmp_path / "demo"))
    assert [row["step"] for row in document["results"]] == [*FINDINGS]
    assert all(row["finding"].endswith(".") for row in document["results"])
    assert all(Path(row["output"], "result.json").exists() for row in document["results"][:-1])
    assert (tmp_path / "demo" / "report.html").exists()
    assert [shlex.split(line)[:2] for line in document["next"]] == [["stochx", s.command] for s in NEXT]
