"""What the document of `stochx attack` says beside its rows: what was evaluated, and what was concluded."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired

from stochx.engine.expectation import Draws
from stochx.engine.io.forms import below, form, keyed, one_of
from stochx.engine.io.lines import Record
from stochx.engine.io.records import Records
from stochx.engine.io.store import RunFolder
from stochx.errors import storable
from stochx.loading import Loaded
from stochx.reports.attacks import Saved
from stochx.runs._curve import describe_curves, judge_gate
from stochx.runs._networks import identify
from stochx.runs.document import Document
from stochx.settings import Attack
from stochx.tasks.attack import AttackRecord, Outcome
from stochx.tasks.batches import Failed
from stochx.tasks.correct_images import Check
from stochx.tasks.robustness import compare, draws_needed, power


@dataclass(frozen=True)
class Part:
    """The results of a case, and its run folder."""

    folder: RunFolder
    records: Records
    failed: list[Failed]
    rows: list[Record]
    needed: Draws


def record_kind(classes: int, attacks: Collection[str]) -> Any:
    """Return the kind of a record, which holds every attack, and classes of the network."""
    place = below(classes)
    return form(
        AttackRecord,
        label=place,
        prediction=place,
        attacks=keyed(attacks, form(Outcome, prediction=place)),
        worst_attack=one_of(attacks),
        seconds=keyed(attacks, float),
        saved=NotRequired[Saved],
    )


def describe_evaluation(
    settings: Attack, networks: Mapping[str, Loaded], parts: Sequence[Part], verdicts: Sequence[Check]
) -> Document:
    """Return what identifies the evaluation, and what was concluded."""
    points, records = settings.points, [part.records for part in parts]
    return {
        "threat": {
            "norm": settings.norm,
            "space": "pixels in [0, 1]",
            "eps": [point.eps for point in points],
            "degree": [point.noise for point in points],
            "typed": [point.text for point in points],
        },
        "models": [
            {"model": name} | identify(loaded) | {"draws": settings.draws if loaded.model.noise != "none" else 1}
            for name, loaded in networks.items()
        ],
        "expectation": [
            {"model": part.rows[0]["model"], "eps": part.rows[0]["eps"], "degree": part.rows[0]["degree"]}
            | dataclasses.asdict(part.needed)
            for part in parts
            if part.rows and part.needed.agreement is not None
        ],
        "dataset": _identify_data(settings.data, records[0]),
        "checks": [dataclasses.asdict(verdict) for verdict in verdicts],
        "versus": None if settings.versus is None else dataclasses.asdict(compare(*records)),
        "power": _power(settings, records),
        "saved": _saved(parts) if settings.save_adversarial else None,
        "curve": describe_curves(settings, records),
        "gate": judge_gate(settings, [row for part in parts for row in part.rows], records[0]),
    }


def _power(settings: Attack, records: Sequence[Sequence[Record]]) -> Document | None:
    """Return what the comparison of the networks could have found, or one with another; None for too few images.

    In a sweep it is that at the largest radius, or degree of noise.
    """
    points = enumerate(settings.points)
    place, _ = max(points, key=lambda at: (at[1].eps, at[1].noise or 0.0))
    first, second = records[place], None if settings.versus is None else records[1]
    found = power(first, second, settings.power)
    if found is None:
        return None
    return dataclasses.asdict(found) | {"draws": draws_needed(found, first, second, settings.draws)}


def _saved(parts: Sequence[Part]) -> Document:
    """Count the images that this run and those that it continues have saved, and what rounding changed."""
    saved = [record["saved"] for part in parts for record in part.records if "saved" in record]
    return {"images": len(saved)} | {key: sum(facts[key] for facts in saved) for key in ("outside", "healed")}


def _identify_data(name: str, records: Sequence[Record]) -> Document:
    """Identify images: the hash is over their keys and labels, in order."""
    lines = "".join(f"{record['image']} {record['label']}\n" for record in records)
    return {"name": name, "n": len(records), "sha256": hashlib.sha256(storable(lines).encode()).hexdigest()}
