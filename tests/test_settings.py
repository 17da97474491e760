"""Settings: what a command can be asked, declared once; the command line and Python follow."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from support import stochx as command

import stochx
from stochx import settings
from stochx.catalog import ATTRIBUTIONS
from stochx.errors import UsageError
from stochx.settings.base import NONE, PANELS, settings_of

CLASSES = [getattr(settings, name) for name in settings.COMMANDS.values()]
SETTINGS = [(cls, setting) for cls in CLASSES for setting in settings_of(cls)]
CLOSED = [(cls, s) for cls, s in SETTINGS if s.choices and s.type is str and not s.option.family]
NAMED = [f"{cls.command} {s.flag}" for cls, s in SETTINGS]
ENTRY = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from stochx.attributions import Explanation


@dataclass(frozen=True)
class Flat:
    """The same relevance everywhere."""

    entry: ClassVar[str] = "attributions:flat"

    level: float = 1.0  # relevance of a pixel

    def __call__(self, model, x, target, keys=None):
        return Explanation(torch.full_like(x, self.level))
'''


def answers(words: str, cwd=ROOT) -> list[str]:
    """The words that bash is offered for the last one of a line."""
    line = words.split(" ")
    environment = os.environ | {
        "_STOCHX_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "stochx"], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture
def flat(tmp_path):
    """A file with an entry, forgotten after the test."""
    file = (tmp_path / "flat.py").resolve()
    file.write_text(ENTRY)
    yield file
    ATTRIBUTIONS.discard(file)


@pytest.mark.parametrize(("cls", "setting"), SETTINGS, ids=NAMED)
def test_every_setting_has_a_help_and_a_panel(cls, setting):
    option = setting.option
    assert option.panel in PANELS
    assert re.fullmatch(r"[A-Za-z`].*[.]", option.help), option.help


@pytest.mark.parametrize("cls", CLASSES, ids=settings.COMMANDS)
def test_help_has_an_option_for_every_setting(cls):
    text = command(cls.command, "--help", env={"COLUMNS": "200"}).stdout
    for setting in settings_of(cls):
        shown = setting.option.metavar.strip("[].{}") if setting.option.positional else setting.flag
        assert shown in text
        assert all(choice in text for choice in setting.choices)


def test_closed_choices_are_offered_to_the_shell():
    assert len(CLOSED) > 10
    assert answers("stochx attack --norm ") == ["linf", "l2", "l1"]


@pytest.mark.parametrize(("cls", "setting"), CLOSED, ids=[f"{c.command} {s.flag}" for c, s in CLOSED])
def test_each_closed_choice_completes_itself(cls, setting):
    from stochx.cli.complete import completer

    complete = completer(setting)
    context = type("Context", (), {"params": {}})
    words = (NONE,) if setting.option.or_none else setting.choices
    assert [value for value, _ in complete(context, "")] == list(words)
    assert [value for value, _ in complete(context, words[0])] == [w for w in words if w.startswith(words[0])]


def test_an_included_entry_is_offered_listed_and_explained(tmp_path, flat):
    assert answers("stochx explain --include flat.py -m fl", tmp_path) == ["flat"]
    assert answers("stochx explain --include flat.py -m flat:", tmp_path) == ["flat:level="]
    run = [sys.executable, "-m", "stochx"]
    for words in (["list", "attributions", "--include", "flat.py"], ["explain", "--include", "flat.py", "--help"]):
        done = subprocess.run([*run, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert re.search(r"\bflat\b", done.stdout)


def test_python_gets_the_document_of_the_command_and_nothing_is_printed(place, monkeypatch, capfd):
    words = ("explain", "a.png", "-m", "gradient", "--model", "net.safetensors", "--seed", 3, "-o")
    typed = json.loads(command(*words, "typed", "--json", cwd=place).stdout)
    monkeypatch.chdir(place)
    called = stochx.run(
        settings.Explain(images=("a.png",), method=("gradient",), model="net.safetensors", seed=3, output="called")
    )
    assert capfd.readouterr() == ("", "")
    for document in (typed, called):
        for part in (document, *document["results"]):
            part.pop("seconds")
        document["args"].pop("output")
    assert json.loads(json.dumps(called)) == typed
    files = [sorted(f.relative_to(place / run) for f in (place / run).rglob("*")) for run in ("typed", "called")]
    assert files[0] == files[1]


def test_a_config_with_an_included_entry_replays(place, flat):
    words = ("explain", "a.png", "--include", flat, "-m", "flat:level=2", "--model", "net.safetensors")
    first = json.loads(command(*words, "-o", "first", "--json", cwd=place).stdout)
    again = command("explain", "--config", "first/config.toml", "-o", "again", "--json", cwd=place)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["args"]["include"] == first["args"]["include"]
    assert [r["method"] for r in first["results"]] == ["flat:level=2"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attack": "pgd"}, "`--attack` takes several values"),
        ({"norm": "l3"}, "`--norm l3` is unknown"),
        ({"attack": ("pdg",)}, "unknown attack `pdg`"),
        ({"draws": 0}, "`--draws 0` is too small"),
        ({"draws": 1.5}, "`--draws` expects a whole number"),
        ({"draws": True}, "`--draws` expects a whole number"),
        ({"fail_under": float("nan")}, "is not a finite number"),
        ({"seed": 2**63}, "`--seed 9223372036854775808` is not a finite number that 64 bits hold"),
        ({"seed": 10**400}, "is not a finite number that 64 bits hold"),
        ({"fail_under": 1.5}, "too large"),
        ({"eps": -1}, "is not a radius"),
        ({"fail_under": "0.4@8"}, "`--fail-under 0.4@8` is above 1"),
        ({"sweep": "eps=0,8"}, "`--sweep eps=8` is above 1"),
        ({"sweep": "noise=0,1", "randomness": "off"}, "`--sweep noise=0,1` and `--randomness off` do not go together"),
        ({"eps": float("nan")}, "is not a radius"),
        ({"attack": 3}, "`--attack` takes several values"),
        ({"model": None}, "`MODEL` expects text"),
        ({"figure": "yes"}, "`--figure` expects true or false"),
    ],
)
def test_python_is_refused_as_the_command_line_is(values, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        settings.Attack(**{"model": "net.pt"} | values)


def test_a_number_is_recorded_as_the_command_line_records_it():
    for cls, model in ((settings.Attack, {"model": "a.pt"}), (settings.Boundary, {"models": ("a.pt",)})):
        assert cls(eps=0.25, **model).recorded() == cls(eps="0.25", **model).recorded()


def test_settings_cannot_be_changed_but_replaced():
    attack = settings.Attack(model="net.pt")
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.norm = "l2"
    with pytest.raises(UsageError):
        dataclasses.replace(attack, norm="l3")


def test_a_placeholder_reaches_the_help_as_it_is_written():
    assert "noise=A:B:STEP" in command("attack", "--help", env={"COLUMNS": "200"}).stdout


def test_no_dictionary_carries_settings():
    pattern = re.compile(r"""\bargs\[["']|\bargs\.get\(""")
    files = [*(ROOT / "stochx").rglob("*.py")]
    assert files and not [f.name for f in files if pattern.search(f.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method = 3", "`--method` expects text"),
        ("method = []", "`--method` names nothing"),
        ("include = 3", "`--include` expects text"),
        ("figure = 3", "`--figure` expects true or false"),
        ("quiet = 1", "`--quiet` expects true or false"),
        ("include = [3]", "`--include` expects text"),
        ("seed = 1.7", "`--seed` expects a whole number"),
        ("seed = true", "`--seed` expects a whole number"),
        ("draws = 0", "`--draws 0` is too small"),
    ],
)
def test_a_wrong_value_in_a_config_is_refused_by_its_name(line, message, place, tmp_path):
    (tmp_path / "c.toml").write_text(line)
    done = command("explain", "a.png", "--model", "net.safetensors", "--config", tmp_path / "c.toml", cwd=place)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_an_entry_that_was_included_before_is_recorded(place, flat, monkeypatch):
    monkeypatch.chdir(place)
    stochx.include(flat)
    explain = settings.Explain(images=("a.png",), method=("flat",), model="net.safetensors", output="before")
    assert stochx.run(explain)["args"]["include"] == [str(flat)]
    for words, env in (
        (("--config", "before/config.toml"), {}),
        ((), {"STOCHX_EXPLAIN_CONFIG": "before/config.toml"}),
    ):
        run = [sys.executable, "-m", "stochx", "explain", *words, "-o", f"after{len(words)}", "--json"]
        done = subprocess.run(run, cwd=place, env=os.environ | env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [row["method"] for row in json.loads(done.stdout)["results"]] == ["flat"]


def test_python_values_are_taken_as_the_command_line_takes_them():
    attack = settings.Attack(model=Path("net.pt"), seed=np.int64(3), eps=np.float32(0.5), norm="l2", output="o")
    assert attack == settings.Attack(model="net.pt", seed=3, eps="0.5", norm="l2", output=Path("o"))


@pytest.mark.parametrize("values", [{"attack": ()}, {"attack": None}, {"include": (None,)}, {"draws": float("inf")}])
def test_nothing_and_endless_numbers_are_refused(values):
    with pytest.raises(UsageError):
        settings.Attack(**{"model": "net.pt"} | values)


def test_run_takes_settings_alone():
    for wrong in ("attack", None, settings.Attack):
        with pytest.raises(UsageError, match="`run` takes settings"):
            stochx.run(wrong)


def test_few_shot_help_and_completion_name_what_explains_a_few_shot_network():
    text = command("fsc-explain", "--help", env={"COLUMNS": "200"}).stdout
    assert "One of: lrp." in text
    assert answers("stochx fsc-explain -m ") == ["lrp"]


@pytest.mark.parametrize(
    ("episodes", "interval"), [(2000, 100), (20, 20), (1, 1), (100, 100), (150, 75), (1000, 100), (264, 88)]
)
def test_episodes_between_validations_divide_the_episodes(episodes, interval):
    train = settings.FscTrain(data=("shapes",), episodes=episodes)
    assert train.interval == train.recorded()["every"] == interval


def test_episodes_that_nothing_usual_divides_need_an_interval():
    with pytest.raises(UsageError, match="`--episodes 101` is not a multiple of `--every 100`"):
        settings.FscTrain(data=("shapes",), episodes=101)
    assert settings.FscTrain(data=("shapes",), episodes=101, every=101).interval == 101
