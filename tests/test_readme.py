"""Every command line in the README is one that stochx understands."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from conftest import ROOT

from stochx.catalog import ATTRIBUTIONS, DATASETS
from stochx.cli import app

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
