"""Run `stochx info`: everything that is known of a model, and where from; and the classes of a data set for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from stochx import support
from stochx.classes import Matching, matching
from stochx.engine.io.data import Data
from stochx.engine.network.classifier import Classifier
from stochx.engine.world import World
from stochx.errors import UsageError, printable
from stochx.facts import Fact
from stochx.fewshot_networks import fewshot_facts
from stochx.loading import load_data
from stochx.runs import Outcome
from stochx.runs._networks import open_network
from stochx.runs._results import make_document
from stochx.runs.document import Document
from stochx.runs.watch import Watch
from stochx.settings import Info


def run(settings: Info, world: World, watch: Watch) -> Outcome:
    """Read the model on the CPU and list its facts; classes that do not meet its outputs are bad input."""
    if settings.support:
        return _support(settings, watch)
    assert settings.model is not None
    facts, more, code = fewshot_facts(Path(settings.model)), Document(), 0
    if facts is not None and settings.data is not None:
        raise UsageError(f"`{settings.model}` has no classes of its own", "leave out `--data`: a support names them")
    if facts is None:
        loaded = open_network(settings.model, settings, torch.device("cpu"))
        facts = loaded.facts
        if settings.data is not None:
            data = load_data(settings.data)
            found = matching(loaded.model, data, settings.data)
            facts = (*facts, *_describe(found, data, loaded.model))
            more, code = {"mapping": _document(found, data, loaded.model)}, 2 if found.how == "refused" else 0
    return Outcome(make_document(settings, watch, {"device": "cpu"}, [asdict(fact) for fact in facts]) | more, code)


def _support(settings: Info, watch: Watch) -> Outcome:
    """List the tested networks, or those like the model, and what works with them."""
    found = support.find(settings.model) if settings.model else support.table()
    rows = [{"name": row.family, "network": row.network, "module": row.module, **row.cells} for row in found]
    return Outcome(make_document(settings, watch, {"device": "cpu"}, rows) | {"tested": {**support.versions()}})


def _describe(found: Matching, data: Data, model: Classifier) -> list[Fact]:
    """Return a fact for each class of the data set that has images, or why there is none."""
    if found.how == "refused":
        return [Fact("classes of the data", f"{found.reason}; {found.hint}", "refused")]
    return [
        Fact(f"class {printable(data.classes[label])}", f"output {place}: {printable(model.classes[place])}", found.how)
        for label, place in found.places.items()
    ]


def _document(found: Matching, data: Data, model: Classifier) -> Document:
    """Return the same as JSON."""
    return {
        "how": found.how,
        "reason": found.reason or None,
        "hint": found.hint or None,
        "classes": [
            {"class": data.classes[label], "output": place, "name": model.classes[place]}
            for label, place in found.places.items()
        ],
    }
