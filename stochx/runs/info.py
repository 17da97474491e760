"""Run `stochx info`: everything that is known of a model, and where from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from stochx.engine.world import World
from stochx.fewshot_networks import fewshot_facts
from stochx.runs import Outcome
from stochx.runs._networks import open_network
from stochx.runs._results import make_document
from stochx.runs.watch import Watch
from stochx.settings import Info


def run(settings: Info, world: World, watch: Watch) -> Outcome:
    """Read the model on the CPU and list its facts."""
    facts = fewshot_facts(Path(settings.model))
    if facts is None:
        facts = open_network(settings.model, settings, torch.device("cpu")).facts
    return Outcome(make_document(settings, watch, {"device": "cpu"}, [asdict(fact) for fact in facts]))
