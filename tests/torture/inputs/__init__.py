"""Fuzzed inputs: files and words that no honest user would give."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from torture.inputs import data, folders, layouts, maps, pickles, pictures, texts, weights
from torture.inputs.watch import CASE, Cases, watched
from torture.outcomes import Outcome

GROUPS: dict[str, tuple[int, Callable[[Random, Path], object]]] = {
    "headers": (24, weights.headers),
    "few-shot headers": (14, weights.fewshot_headers),
    "tensors": (12, weights.tensors),
    "damaged weights": (14, weights.damaged),
    "shared folders": (10, weights.shared),
    "pickles": (18, pickles.pickles),
    "lists of classes": (12, texts.classes),
    "configs": (20, texts.configs),
    "options": (20, texts.options),
    "entries": (12, texts.entries),
    "names of models": (8, texts.names),
    "maps": (16, maps.maps),
    "images": (24, pictures.pictures),
    "data files": (24, data.data),
    "data folders": (14, layouts.layouts),
    "runs resumed": (6, folders.resumed),
    "runs read": (12, folders.read),
}
"""How many cases of a round, and what runs one."""
ROUND = [name for place in range(24) for name, (share, _) in GROUPS.items() if place < share]
ROUNDS = 90


class Inputs:
    """Files and words that are fuzzed: each is read, or is one error."""

    name, title, total, short = "inputs", "inputs", ROUNDS * len(ROUND), len(ROUND)

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        torch.set_num_threads(1)  # others do not live in forked children
        os.environ |= {"HF_HUB_OFFLINE": "1", "TORCH_HOME": str(folder / CASE)}  # nothing is fetched
        sys.dont_write_bytecode = True  # beside the product's code
        logging.lastResort = logging.NullHandler()
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as place:  # children that are forked then have what this makes and imports
            for name in {GROUPS[group(number)][1].__module__ for number in numbers}:
                module = sys.modules[name]
                module.prepare(folder if module is folders else Path(place))

        def run(number: int, place: Path) -> None:
            GROUPS[group(number)][1](Random(f"{seed}:{number}"), place)

        return watched(Cases(group, run), numbers, folder)


def group(number: int) -> str:
    """Return the group of a case."""
    return ROUND[number % len(ROUND)]
