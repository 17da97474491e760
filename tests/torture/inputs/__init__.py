"""Fuzzed inputs: files and words that no honest user would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from torture.inputs import weights
from torture.inputs.watch import Cases, watched
from torture.outcomes import Outcome

GROUPS: dict[str, tuple[int, Callable[[Random, Path], object]]] = {
    "headers": (3, weights.headers),
    "few-shot headers": (2, weights.fewshot_headers),
    "tensors": (2, weights.tensors),
    "damaged weights": (2, weights.damaged),
}
"""How many cases of a round, and what runs one."""
ROUND = [name for place in range(99) for name, (share, _) in GROUPS.items() if place < share]
ROUNDS = 700


class Inputs:
    """Files and words that are fuzzed: each is read, or is one error."""

    name, title, total, short = "inputs", "inputs", ROUNDS * len(ROUND), 3 * len(ROUND)

    def run(self, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[Outcome]:
        torch.set_num_threads(1)  # others do not live in forked children
        weights.prepare(folder)

        def run(number: int, place: Path) -> None:
            GROUPS[group(number)][1](Random(f"{seed}:{number}"), place)

        return watched(Cases(group, run), numbers, folder)


def group(number: int) -> str:
    """Return the group of a case."""
    return ROUND[number % len(ROUND)]
