"""The table of networks that work with commands: what it holds, how a network is found in it, and that it is true."""

from __future__ import annotations

import json
import runpy

import pytest
from conftest import ROOT
from support import stochx

from stochx import support
from stochx.errors import UsageError

PAGE = ROOT / "docs" / "networks.md"
SAMPLE = ("torchvision ViT", "torchvision ConvNeXt", "MLP-Mixer")
LARGER_SAMPLE = ("torchvision Swin", "ViT", "Swin v2", "ConvNeXt v2", "ConViT", "EfficientNet", "RegNet", "FastViT")


@pytest.fixture(scope="module")
def measure():
    pytest.importorskip("timm")
    return runpy.run_path(str(ROOT / "benchmarks" / "support.py"))


def test_the_page_of_the_manual_is_that_of_the_table():
    assert PAGE.read_text(encoding="utf-8") == support.markdown(support.table(), support.versions())


def test_the_table_has_every_command_and_stays_small():
    assert all([*row.cells] == [*support.COLUMNS] for row in support.table())
    assert support.FILE.stat().st_size < 100_000


@pytest.mark.parametrize("family", SAMPLE)
def test_the_table_is_true_of_a_sample(family, measure):
    columns = ("gradcam", "lrp", "balanced", "attack", "distill")
    (row,) = (row for row in support.table() if row.family == family)
    assert measure["tested"](family, columns).cells == {column: row.cells[column] for column in columns}


@pytest.mark.slow
@pytest.mark.parametrize("family", LARGER_SAMPLE)
def test_the_table_is_true_of_a_larger_sample(family, measure):
    (row,) = (row for row in support.table() if row.family == family)
    assert measure["tested"](family) == row


def test_the_table_has_every_family(measure):
    assert [row.family for row in support.table()] == [*measure["NAMES"]]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("ViT", "ViT"),
        ("timm:vit_base_patch16_224.augreg_in21k", "ViT"),
        ("timm:vit_small_patch14_dinov2", "DINOv2, registers"),
        ("timm:swin_base_patch4_window7_224", "Swin"),
        ("vit_b_16", "torchvision ViT"),
        ("resnet50", "ResNet"),
        ("mambaout", "MambaOut"),
    ],
)
def test_a_network_is_found_by_its_family_or_by_what_builds_it(name, family):
    pytest.importorskip("timm")
    assert family in [row.family for row in support.find(name)]


def test_a_network_like_none_is_an_error():
    for name in ("nothing_like_it", "timm:nothing", "", ":"):
        with pytest.raises(UsageError, match="no tested network"):
            support.find(name)


def test_info_shows_a_line_for_each_command_of_one_network_and_a_column_for_those_of_all(tmp_path):
    one = stochx("info", "--support", "MLP-Mixer", "--format", "markdown", cwd=tmp_path).stdout
    assert "explain -m gradient:backward=balanced" in one and "attack -a fgsm" in one
    rows = stochx("info", "--support", cwd=tmp_path).stdout.splitlines()
    assert len(rows) == 1 + len(support.table()) and rows[0].split("\t")[2:] == [*support.COLUMNS]
    document = json.loads(stochx("info", "--support", "MLP-Mixer", "--json", cwd=tmp_path).stdout)
    assert document["results"][0]["gradient"] == "yes" and {*document["tested"]} == {"torch", "torchvision", "timm"}


@pytest.mark.parametrize("words", [(), ("--support", "--data", "shapes"), ("--support", "nothing_like_it")])
def test_info_says_what_is_missing_or_too_much(words, tmp_path):
    done = stochx("info", *words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "hint: " in done.stderr
