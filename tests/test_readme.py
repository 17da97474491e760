"""Every command line in the README is one that stochx understands."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
import typer
from conftest import ROOT
from PIL import Image

from stochx.catalog import ATTRIBUTIONS, DATASETS
from stochx.cli import app
from stochx.engine.network import weights
from stochx.fewshot_networks import make_fewshot, save_fewshot
from stochx.models import ConvNet, Preparation

TEXT = (ROOT / "README.md").read_text()
LINES = re.findall(r"^stochx .*$", TEXT, flags=re.MULTILINE)
COMMANDS = typer.main.get_command(app).commands


def test_the_readme_has_examples():
    assert len(LINES) >= 6


@pytest.mark.parametrize("line", LINES)
def test_a_readme_line_parses(line):
    _, command, *words = shlex.split(line.partition("|")[0].partition("  #")[0])
    context = COMMANDS[command].make_context(command, words, resilient_parsing=True)
    options = {name for p in COMMANDS[command].params for name in getattr(p, "opts", [])}
    assert all(word in options for word in words if word.startswith("-")), options
    assert context.params


@pytest.mark.parametrize("text", re.findall(r"`((?:smoothtaylor|ig|smoothgrad|lrp):[\w=.,-]+)`", TEXT))
def test_a_readme_method_is_one(text):
    assert ATTRIBUTIONS.parse(text)


def test_readme_data_sets_are_ones():
    assert all(DATASETS.parse(text) for text in re.findall(r"`(shapes:[\w=.,-]+)`", TEXT))


def test_the_readmes_set_up_commands_are_make_targets():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", TEXT, flags=re.MULTILINE)) <= set(targets)


def test_the_snippets_from_python_run(tmp_path, monkeypatch):
    """One after the other, in a folder with the files that they name; with fewer draws, which take their time."""
    monkeypatch.chdir(tmp_path)
    for folder in ("teacher", "run"):
        (tmp_path / folder).mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(3)
    model.classes, model.preparation = ("ant", "bee", "cat"), Preparation(16, 16)
    weights.save(tmp_path / "teacher" / "model.safetensors", model.eval())
    save_fewshot(tmp_path / "run" / "model.safetensors", make_fewshot("convnet:width=4", "cosine", 2, 16, 0, {}))
    for label, name in enumerate(model.classes * 2):
        file = tmp_path / "photos" / "test" / name / f"{label}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 20), (30 * label, 90, 200)).save(file)
    Image.effect_noise((24, 20), 60).convert("RGB").save(tmp_path / "img.jpg")
    section = TEXT.partition("## From Python")[2].partition("\n## ")[0] + (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    names = {"support": torch.rand(2, 1, 3, 16, 16), "query": torch.rand(3, 3, 16, 16)}
    for block in blocks:
        exec(block.replace("roots=500", "roots=5").replace("steps=20", "steps=2"), names)
    assert len(blocks) == 4 and names["adversarial"].shape[1:] == (3, 16, 16) and (tmp_path / "map.png").exists()
    assert names["scores"].shape == (3, 2) and names["rows"][0]["n"] == 6 and names["data"][-1][1] == 2
