"""The robustness card of a run: what is claimed, under which threat, with which effort, on what, how to repeat it."""

from __future__ import annotations

from pathlib import Path

from stochx.engine.io.files import write_json, write_text
from stochx.runs.document import Document
from stochx.settings.argv import recorded_line
from stochx.tables.card import card_page

SCHEMA = 1
ENVIRONMENT = ("version", "device", "precision", "threads", "batch_size", "seed")
MEANS = ("clean", "clean_low", "clean_high", "robust", "low", "high", "n", "estimand")
CLAIM = ("model", "norm", "eps", "typed", "degree", "attack", *MEANS)
EFFORT = ("model", "typed", "attack", "parameters", "steps", "eot", "restarts", "forwards", "backwards", "label")
COMMANDS = ("attack", "certify")


def make_card(document: Document) -> Document:
    """Return the card of a run of `attack` or `certify`."""
    typed = document["args"]
    about = _attacked(document) if document["command"] == "attack" else _certified(document)
    return {
        "schema": SCHEMA,
        "kind": "empirical" if document["command"] == "attack" else "certified",
        **about,
        "data": {"name": typed["data"], "sample": document["sample"], "dataset": document.get("dataset")},
        "failed": len(document["failed"]),
        "environment": {name: document[name] for name in ENVIRONMENT},
        "reproduce": recorded_line(document["command"], typed),
    }


def _attacked(document: Document) -> Document:
    typed, rows = document["args"], document["results"]
    return {
        "claims": [{key: row[key] for key in CLAIM} for row in rows],
        "threat": document["threat"] | {"target": typed.get("target"), "noise": typed["randomness"]},
        "attacks": [{key: row[key] for key in EFFORT} for row in rows if row["parameters"] is not None],
        "judging": {"judge": typed["judge"], "draws": max(model["draws"] for model in document["models"])},
        "checks": document["checks"],
        "models": document["models"],
    }


def _certified(document: Document) -> Document:
    rows = document["results"]
    return {
        "claims": [{key: row[key] for key in ("model", "radius", "certified", "low", "high", "n")} for row in rows],
        "threat": {"norm": document["smoothing"]["norm"], "space": "pixels in [0, 1]"},
        "smoothing": document["smoothing"],
        "overview": document["overview"],
        "checks": [],
        "models": [{"model": document["args"]["model"], **document["network"]}],
    }


def write_card(folder: Path, document: Document) -> None:
    """Write the card of a run into its folder, as `card.json` and `card.md`."""
    card = make_card(document)
    write_json(folder / "card.json", card)
    write_text(folder / "card.md", card_page(card))
