"""The public API as a type checker sees it: right scripts pass, and each wrong line fails for its own reason."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import stochx
from stochx.catalog import FAMILIES
from stochx.entries import package_file
from stochx.stubs import stub

RIGHT = """\
import stochx
import torch
from stochx import attacks, attributions, datasets, guides, heads, lessons, metrics, models, noises

network: models.Classifier = stochx.load_model("resnet18", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
data: datasets.Data = stochx.load_data("cifar10")
x, y = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
explanation = attributions.SmoothTaylor(sigma=0.5, roots=9)(network, x, y, keys=["a", "b"])
total: torch.Tensor = explanation.map.sum()
ball = attacks.Ball(0.5, "l2")
context = attacks.Context(keys=(0, 1))
attempt: attacks.Attempt = attacks.PGD(steps=3)(network, x, y, ball, context)
attempt = attacks.PGD(steps=3)(network, x, [0, 1], eps=0.5, norm="l2", target=2)
score: metrics.Score = metrics.Complexity()(metrics.Evidence(explanation.map, keys=(0, 1)))
score = metrics.AUPC()(network, x, explanation, 3)
score = metrics.MaxSensitivity()(network, x, explain=attributions.Gradient())
score = metrics.PointingGame()(map=explanation.map.numpy(), mask=explanation.map > 0)
slope: torch.Tensor = stochx.gradient(network, x, 3)
explanation = attributions.Gradient()(network, x[0], (0, 1))
explanation = attributions.Gradient()(network, stochx.read_image("a.png", network))
image, label = stochx.load_data("cifar10", model=network)[0]
loader = torch.utils.data.DataLoader(data, batch_size=2)
stochx.show(explanation, image, titles="a map").savefig("map.png")
method: attributions.Attribution = attributions.IntegratedGradients(steps=4)
lesson: lessons.Lesson = lessons.Logits()
head: heads.Head = heads.Relation()
guide: guides.Guide = guides.LRP()
noise: noises.Noise = noises.Gaussian(sigma=0.1)
model: models.Model = models.ResNetCIFAR(depth=20)
document = stochx.run(
    stochx.settings.Attack(model="net.pt", data="cifar10", attack=("pgd:steps=20",), norm="l2", eps=0.5, limit=10)
)
print(document["results"])
stochx.include("mine.py")
try:
    stochx.run(stochx.settings.Explain(images=("a.png",), method=("ig",)))
except stochx.InputError as error:
    print(error)
"""

WRONG = {  # a line, and what is wrong with it
    "stochx.attributions.SmoothTaylor(sgima=0.5)": 'Unexpected keyword argument "sgima"',
    "stochx.attributions.SmothTaylor()": 'has no attribute "SmothTaylor"',
    'stochx.attributions.IntegratedGradients(steps="many")': 'has incompatible type "str"; expected "int"',
    'stochx.attacks.PGD()(stochx.load_model("a"), stochx.read_image("a"), 1, norm="l3")': "No overload variant",
    'stochx.attributions.Gradient()(stochx.load_model("a"), stochx.read_image("a"), "cat")': 'type "str"',
    'stochx.attacks.Ball(0.5, "l3")': 'expected "Literal[',
    'stochx.attacks.PGD(loss="hinge")': 'expected "Literal[',
    'stochx.settings.Attack(model="a.pt", norm="l3")': 'expected "Literal[',
    'stochx.settings.Attack(model="a.pt", attack="pgd")': 'has incompatible type "str"; expected "tuple[str, ...]"',
    'stochx.settings.Attack(model="a.pt", epsilon=0.1)': 'Unexpected keyword argument "epsilon"',
    "stochx.settings.Attack()": 'Missing named argument "model"',
    "stochx.settings.Atack": 'has no attribute "Atack"',
    "stochx.load_modle": 'has no attribute "load_modle"',
    'stochx.run("attack")': 'expected "Settings"',
    "stochx.metrics.Evidence(map=None)": 'has incompatible type "None"; expected "Tensor"',
    "stochx.noises.Gaussian(sigma=0.1)(3)": 'expected "Site"',
    "stochx.models.Classifier().arch": "Missing positional arguments",
}


def test_mypy_passes_right_scripts_and_refuses_wrong_names_and_types(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text("import stochx\n" + "\n".join(WRONG))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--no-pretty",
        "right.py",
        "wrong.py",
    ]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "right.py" not in done.stdout and not done.stderr
    for line, (text, reason) in enumerate(WRONG.items(), start=2):
        messages = re.findall(rf"^wrong\.py:{line}: error: (.*)", done.stdout, re.M)
        assert any(reason in message for message in messages), f"{text}\n{done.stdout}"


def test_stubs_are_fresh():
    for family in FAMILIES:
        written = package_file(f"stochx.{family}").with_suffix(".pyi").read_text(encoding="utf-8")
        assert written == stub(family), "run `make stubs`"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_stub_names_is_there_at_run_time(family):
    package = importlib.import_module(f"stochx.{family}")
    names = re.findall(r"^(?:from .* as|class) ([^\W_]\w*)", stub(family), re.M)
    assert names and {*names} <= {*dir(package)}
    assert all(getattr(package, name) is not None for name in names)


def test_the_top_of_the_package_hands_on_what_it_lists():
    assert all(getattr(stochx, name) is not None for name in stochx.__all__)
    assert not [name for name in ("load_modle", "attack") if hasattr(stochx, name)]
