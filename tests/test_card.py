"""The robustness card: every claim with its n, what it rests on, and the command that repeats it."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from markdown_it import MarkdownIt
from recorded.cases import RUNS
from support import recorded_document, refused, stochx, write_run

from stochx import settings
from stochx.runs import run
from stochx.runs._card import make_card
from stochx.tables.card import card_page, facts

CARDS = [name for name in RUNS if name.startswith(("attack", "certify"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of recorded runs."""
    place = tmp_path_factory.mktemp("cards")
    return {name: write_run(place / name, recorded_document(name)) for name in CARDS}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_a_claim_rests_on(name):
    document = recorded_document(name)
    card = make_card(document)
    page = card_page(card)
    sections = re.findall("^## (.+)$", page, re.MULTILINE)
    about = ["Attacks", "Checks"] if name.startswith("attack") else []
    assert sections == ["Result", "Threat model", *about, "Network", "Data", "Environment", "Reproduce"]
    for fact in (document["device"], document["sample"]["hash"], document["args"]["data"], document["precision"]):
        assert fact in page
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("name", CARDS)
def test_no_claim_stands_without_its_n(name):
    claims = [value for section, _, value in facts(make_card(recorded_document(name))) if section == "Result"]
    n = recorded_document(name)["results"][0]["n"]
    assert claims and all(claim.endswith(f"n = {n}") for claim in claims)
    assert f"n = {n}.**" in card_page(make_card(recorded_document(name))).splitlines()[2]


@pytest.mark.parametrize("name", CARDS)
def test_the_command_of_a_card_repeats_the_run(name):
    document = recorded_document(name)
    command, verb, *words = shlex.split(make_card(document)["reproduce"])
    assert (command, verb) == ("stochx", document["command"])
    assert "--output" not in words and document["args"]["model"] in words


def test_the_worst_case_is_the_first_claim():
    results = [name for section, name, _ in facts(make_card(recorded_document("attack"))) if section == "Result"]
    assert results[0] == "linf 1/255, worst of all attacks" and len(results) == 3


def test_a_failed_check_is_the_first_thing_that_a_card_says():
    document = recorded_document("attack")
    document["checks"][0] |= {"verdict": "fail", "name": "logits", "text": "no", "advice": "mend"}
    assert card_page(make_card(document)).splitlines()[2].startswith("**This evaluation cannot be believed:**")
    document["checks"] = []
    assert "no checks of the evaluation were made" in card_page(make_card(document))


def test_the_noise_of_a_network_and_the_draws_stand_in_its_card():
    noisy = card_page(make_card(recorded_document("attack-noise")))
    assert "- **draws of the noise:** secret" in noisy and "- **judged by:** 2 fresh draws" in noisy
    plain = card_page(make_card(recorded_document("attack")))
    assert "draws of the noise" not in plain and "judged by" not in plain


def test_names_are_text_in_a_card():
    document = recorded_document("attack")
    document["models"][0]["model"] = document["args"]["data"] = "[x](http://y)<b>\n# no"
    html = MarkdownIt("commonmark").render(card_page(make_card(document)))
    assert html.count("[x](http://y)&lt;b&gt;\\n# no") >= 3 and "<b>" not in html and "<a" not in html


def test_the_command_makes_cards_of_older_folders(folders):
    both = (folders["attack"], folders["certify"])
    page = stochx("card", *both, "--format", "markdown").stdout
    assert page == "\n".join(card_page(make_card(recorded_document(name))) for name in ("attack", "certify"))
    document = json.loads(stochx("card", *both, "--json").stdout)
    assert document["cards"] == [make_card(recorded_document(name)) for name in ("attack", "certify")]
    table = [line.split("\t") for line in stochx("card", *both).stdout.splitlines()]
    assert table[0] == ["run", "section", "name", "value"] and len(table) == 1 + len(document["results"])


def test_runs_without_a_card_are_named(folders, tmp_path):
    score = write_run(tmp_path / "score", recorded_document("score"))
    empty = write_run(tmp_path / "empty", recorded_document("attack") | {"results": [], "expectation": []})
    old = recorded_document("attack")
    del old["sample"]
    older = write_run(tmp_path / "old", old)
    failed = make_card(recorded_document("attack")) | {"failed": 1}
    assert ("Result", "left out", "1 image that could not be used") in facts(failed)
    damaged = recorded_document("attack")
    damaged["threat"]["degree"] = []
    damaged = write_run(tmp_path / "damaged", damaged)
    refused(lambda: run(settings.Card(runs=(damaged,))), "lacks what a card says: list index out of range")
    for folder, message in ((score, "is a run of score"), (empty, "has no results"), (older, "lacks what a card says")):
        refused(lambda folder=folder: run(settings.Card(runs=(folder,))), message)


def test_the_noise_of_a_student_is_named_as_it_was_typed():
    document = recorded_document("attack")
    document["models"][0]["noises"] = "adaptive:beta=0.3+dropout"
    assert ("Network", "noise layers", "adaptive:beta=0.3+dropout") in [*facts(make_card(document))]
