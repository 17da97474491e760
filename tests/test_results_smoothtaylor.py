"""The page about SmoothTaylor: units that are kept and continued, and verdicts that follow from the scores."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import save_net
from PIL import Image
from results_pages import paper, write_page

SETTINGS = {"model": "net", "arch": None, "photos": "photos", "size": 10}


@pytest.fixture
def taylor(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return paper(monkeypatch, "smoothtaylor")


def photos(folder: Path) -> tuple[str, str]:
    """Return the option that names the photos."""
    return "--photos", str(folder / "photos")


def plant(taylor: ModuleType, folder: Path, shift: dict[tuple[str, str], float]) -> None:
    """Write units of two networks; `shift` moves the scores of a method by a metric away from those of all others."""
    arms, others, cheap, adaptive = taylor.ARMS, taylor.OTHERS, taylor.CHEAP, (taylor.FOR_AUPC, taylor.FOR_AUTVC)
    (folder / "photos").mkdir()
    (folder / "page").mkdir()
    for place, name in enumerate(("one", "two")):
        for block in range(3):
            draw = np.random.default_rng(10 * place + block)
            scores = {
                metric: {
                    method: (shift.get((method, metric), 0.0) + 0.3 + 0.1 * draw.normal(size=10)).tolist()
                    for method in (arms if metric == "aupc" else [*arms, *others])
                }
                for metric in ("aupc", *cheap)
            }
            facts = {"arm": name, "seed": block, "settings": SETTINGS, "version": "0", "seconds": 60.0}
            unit = {**facts, "photos": [f"{n}" for n in range(10)], "scores": scores}
            file = folder / "page" / f"{name}-{block}.json"
            file.write_text(json.dumps(unit | {"sigma": {method: [0.5] * 10 for method in adaptive}}))


PLANTED = "--network", "one=net", "--network", "two=net", "--units", "3", "--least", "30", "--budget", "0"


def test_claims_are_supported_refuted_or_undecided_by_their_scores(tmp_path, taylor):
    plant(taylor, tmp_path, {(taylor.TAYLOR, "autvc"): -0.3, (taylor.TAYLOR, "aupc"): 0.3})
    text = write_page(taylor, tmp_path, *photos(tmp_path), *PLANTED)
    first = text.splitlines()[2]
    assert first.startswith("**Of 2 networks: that SmoothTaylor is smoother than IG is supported on 2; ")
    assert "that SmoothTaylor is more sensitive than IG is refuted on 2; " in first
    start = "| SmoothTaylor has a larger symmetric relevance gain than IG |"
    rows = [row for row in text.splitlines() if row.startswith(start)]
    assert len(rows) == 2 and all(row.endswith("| undecided |") for row in rows)
    assert all(float(row.split(" | ")[5]) > 0 for row in rows), "an undecided claim says what would have been found"
    assert "30 with one, 30 with two" in text and text.count("<details>") == 3
    assert (tmp_path / "page.png").exists()


def test_a_page_is_left_alone_until_there_are_enough_photos(tmp_path, taylor):
    plant(taylor, tmp_path, {})
    assert write_page(taylor, tmp_path, *photos(tmp_path), *PLANTED[:-3], "40", "--budget", "0") == ""


def test_photos_come_in_an_order_that_is_spread_and_each_once(tmp_path, taylor):
    for count in (12, 73, 146):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for n in range(count):
            (folder / f"{n:03d}.jpg").touch()
        args = argparse.Namespace(photos=folder, size=5)
        found = [Path(photo).stem for block in range(30) for photo in taylor.photos_of(args, block)]
        assert sorted(found) == [f"{n:03d}" for n in range(count)]
        assert max(map(int, found[:10])) - min(map(int, found[:10])) > count / 2


@pytest.mark.slow
def test_photos_are_scored_kept_and_not_scored_again(tmp_path, taylor):
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for n in range(2):
        blocks = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((160, 160)).save(tmp_path / "photos" / f"{n}.png")
    net = save_net(tmp_path / "net.safetensors", ["a", "b", "c"])
    options = "--network", f"tiny={net}", "--units", "2", "--size", "1", "--least", "2"
    assert write_page(taylor, tmp_path, *photos(tmp_path), *options, "--units", "1") == ""
    kept = tmp_path / "page" / "tiny-0.json"
    before = kept.stat().st_mtime_ns
    text = write_page(taylor, tmp_path, *photos(tmp_path), *options)
    assert kept.stat().st_mtime_ns == before and (tmp_path / "page" / "tiny-1.json").exists()
    unit = json.loads(kept.read_text())
    assert {len(values) for by in unit["scores"].values() for values in by.values()} == {1}
    assert len(unit["scores"]["aupc"]) == 9 and len(unit["scores"]["srg"]) == 14 and len(unit["sigma"]) == 2
    assert "2 with tiny" in text
