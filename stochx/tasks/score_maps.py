"""Scores of stored maps: alone, or with their images in place of a method."""

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
from stochx.tasks.score import ScoreRecord
from stochx.tasks.values import as_values, unfit_maps

ROWS = 64  # maps scored together


@dataclass(frozen=True)
class MapStore:
    """The map files by image and method, `places[image][method]`, which are read on demand."""

    places: Mapping[str, Mapping[str, Callable[[], MapFile]]]

    @property
    def methods(self) -> list[str]:
        """Methods of all images, sorted."""
        return sorted({method for maps in self.places.values() for method in maps})

    def first(self, count: int) -> MapStore:
        """Return the maps of the first `count` images."""
        return MapStore(dict(list(self.places.items())[:count]))

    def of(self, image: str) -> Mapping[str, Callable[[], MapFile]]:
        """Return the maps of an image by name: the same path, or the same file name without its suffix."""
        stems = {image, PurePath(image).name, PurePath(image).stem}
        for name, maps in self.places.items():
            if {name, PurePath(name).name, PurePath(name).stem} & stems:
                return maps
        return {}

    def explanations(self, batch: ImageBatch) -> dict[str, tuple[Explanation, float]]:
        """Return the stored maps of a batch as explanations; NaN if an image has none.

        Raises `InputError` for a map that does not match its image's size.
        """
        results = {}
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
                        "compute maps at the network's input size",
                    )
                maps.append(torch.full((height, width), torch.nan) if stored is None else stored.map.sum(0))
            results[method] = Explanation(torch.stack(maps)[:, None].to(batch.images)), 0.0
        return results


def score_maps(
    shelf: MapStore,
    metrics: Mapping[str, Metric],
    *,
    seed: int = 0,
    world: World | None = None,
    done: Collection[int] = (),
    report: Callable[[list[ScoreRecord], int], None] = lambda records, items: None,
) -> list[ScoreRecord]:
    """Return the records of maps without their images, in order, for metrics that need the map alone."""
    images = list(shelf.places)

    def load(places: range) -> list[tuple[int, MapFile]]:
        return [(i, open_map()) for i in places for open_map in shelf.places[images[i]].values()]

    def work(places: range, loaded: list[tuple[int, MapFile]]) -> list[ScoreRecord]:
        records: list[ScoreRecord] = []
        loaded = sorted(loaded, key=lambda pair: pair[1].map.shape[1:])
        for _, same_size in groupby(loaded, key=lambda pair: pair[1].map.shape[1:]):
            records += _score(list(same_size), images, metrics, seed)
        return records

    records = sweep(len(images), ROWS, load, work, world or World(), done, report)
    return sorted(records, key=lambda record: (record.index, record.method))


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
