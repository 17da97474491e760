"""Maps that were made elsewhere: alone, or in the place of a method beside the images they belong to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath

import torch

from stochx.attributions import Explanation
from stochx.engine.io.mapfile import MapFile
from stochx.engine.sweep import sweep
from stochx.engine.world import World
from stochx.errors import InputError
from stochx.metrics import Evidence, Metric
from stochx.tasks.batches import ImageBatch
from stochx.tasks.score import ScoreRecord, as_values, unfit_maps

ROWS = 64  # maps scored together


@dataclass(frozen=True)
class MapStore:
    """Which file holds the map of an image by a method: `places[image][method]`; files are read when asked for."""

    places: Mapping[str, Mapping[str, Callable[[], MapFile]]]

    @property
    def methods(self) -> list[str]:
        """The methods of all images, sorted."""
        return sorted({method for there in self.places.values() for method in there})

    def of(self, image: str) -> Mapping[str, Callable[[], MapFile]]:
        """The maps of an image by its name: the same path, or the same file name without its ending."""
        stems = {image, PurePath(image).name, PurePath(image).stem}
        for name, there in self.places.items():
            if {name, PurePath(name).name, PurePath(name).stem} & stems:
                return there
        return {}

    def explanations(self, batch: ImageBatch) -> dict[str, tuple[Explanation, float]]:
        """The stored maps of a batch, as if a method had made them; NaN where an image has none.

        Raises `InputError` for a map that does not fit its image.
        """
        found = {}
        height, width = batch.images.shape[2:]
        for method in self.methods:
            maps = []
            for name in batch.names:
                open_map = self.of(name).get(method)
                stored = None if open_map is None else open_map()
                if stored is not None and stored.map.shape[1:] != (height, width):
                    size = " x ".join(map(str, stored.map.shape[1:]))
                    raise InputError(
                        f"the map `{stored.path}` is {size}, but the network sees `{name}` as {height} x {width}",
                        "make maps at the network's input size",
                    )
                maps.append(torch.full((height, width), torch.nan) if stored is None else stored.map.sum(0))
            found[method] = Explanation(torch.stack(maps)[:, None].to(batch.images)), 0.0
        return found


def score_maps(
    shelf: MapStore,
    metrics: Mapping[str, Metric],
    *,
    seed: int = 0,
    world: World | None = None,
    done: Collection[int] = (),
    report: Callable[[list[ScoreRecord], int], None] = lambda records, items: None,
) -> list[ScoreRecord]:
    """The records of maps without their images, in order, for metrics that look at nothing but the map."""
    images = list(shelf.places)

    def load(places: range) -> list[tuple[int, MapFile]]:
        return [(i, open_map()) for i in places for open_map in shelf.places[images[i]].values()]

    def work(places: range, loaded: list[tuple[int, MapFile]]) -> list[ScoreRecord]:
        found: list[ScoreRecord] = []
        loaded = sorted(loaded, key=lambda pair: pair[1].map.shape[1:])
        for _, same_size in groupby(loaded, key=lambda pair: pair[1].map.shape[1:]):
            found += _score(list(same_size), images, metrics, seed)
        return found

    found = sweep(len(images), ROWS, load, work, world or World(), done, report)
    return sorted(found, key=lambda record: (record.index, record.method))


def _score(
    files: Sequence[tuple[int, MapFile]], images: Sequence[str], metrics: Mapping[str, Metric], seed: int
) -> list[ScoreRecord]:
    maps = torch.stack([file.map.sum(0, keepdim=True) for _, file in files])
    unfit = unfit_maps(maps)
    evidence = Evidence(maps.nan_to_num(0.0, 0.0, 0.0), [f"{seed}/{images[i]}" for i, _ in files])
    values = {name: as_values(metric(evidence), unfit, 0.0) for name, metric in metrics.items()}
    return [
        ScoreRecord(i, images[i], file.method, file.target, scores={name: values[name][n] for name in metrics})
        for n, (i, file) in enumerate(files)
    ]
