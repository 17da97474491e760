"""The page of parts: its command runs, goes on where it was left, and its sentence follows from the scores."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from results_pages import paper, write_page


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return paper(monkeypatch, "parts")


def plant(parts: ModuleType, folder: Path, networks: int, **means: float) -> None:
    """Write the files of networks whose methods have these means, and all others that of the controls."""
    methods, controls, metrics = parts.METHODS, parts.CONTROLS, (*parts.METRICS_OF_PARTS, *parts.OTHERS)
    for seed in range(networks):
        scores = {
            metric: {
                name: [means.get(name, 0.5) + 0.01 * ((7 * image + 3 * seed + place) % 11 - 5) for image in range(40)]
                for place, name in enumerate([*methods, *controls])
            }
            for metric in metrics
        }
        file = folder / "page" / f"network-{seed}.json"
        file.parent.mkdir(exist_ok=True)
        settings = {"images": 100, "count": 6000, "epochs": 40}
        facts = {"arm": "network", "seed": seed, "settings": settings, "version": "0", "seconds": 60.0}
        file.write_text(json.dumps({**facts, "accuracy": 0.9, "independence": 0.5, "scores": scores}))


def test_methods_that_lead_the_controls_are_named_and_no_others(tmp_path, parts):
    plant(parts, tmp_path, 3, lrp=0.9, gradcam=0.7, ig=0.4)
    text = write_page(parts, tmp_path, "--networks", "3")
    first = next(line for line in text.splitlines() if line.startswith("**"))
    assert "2 order the parts" in first and "control: `lrp` (0.90), `gradcam` (0.70); chance has 0.5." in first
    assert "`ig` (0.40)" in first.partition("Not shown to do so:")[2]
    assert "3 networks" in text and (tmp_path / "page.png").exists()
    assert text.count("<details>") == len(parts.METRICS_OF_PARTS) + len(parts.OTHERS)


def test_one_network_decides_nothing_and_a_short_budget_writes_what_there_is(tmp_path, parts):
    plant(parts, tmp_path, 1, lrp=0.9)
    assert "nothing is decided yet" in write_page(parts, tmp_path, "--networks", "2", "--budget", "0.5")
    assert not (tmp_path / "runs").exists()


def test_no_method_is_named_where_a_control_is_as_good(tmp_path, parts):
    plant(parts, tmp_path, 3, lrp=0.9, centre=0.9)
    assert "0 order the parts of an object as the network does better than every control: none" in write_page(
        parts, tmp_path, "--networks", "3"
    )


def test_results_of_other_settings_are_not_mixed(tmp_path, parts):
    plant(parts, tmp_path, 1)
    with pytest.raises(ValueError, match="other settings"):
        write_page(parts, tmp_path, "--networks", "1", "--epochs", "2")
    assert not (tmp_path / "page.md").exists()


@pytest.mark.slow
def test_networks_are_trained_scored_and_kept(tmp_path, parts):
    tiny = "--networks", "1", "--images", "2", "--count", "48", "--epochs", "1"
    text = write_page(parts, tmp_path, *tiny)
    kept = json.loads((tmp_path / "page" / "network-0.json").read_text())
    assert "1 networks" in text and all(len(v) == 2 for by in kept["scores"].values() for v in by.values())
    before = (tmp_path / "page" / "network-0.json").stat().st_mtime_ns
    write_page(parts, tmp_path, *tiny)
    assert (tmp_path / "page" / "network-0.json").stat().st_mtime_ns == before
