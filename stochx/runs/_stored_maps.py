"""Maps that were stored before: those below a folder, and the images that have some."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from stochx.engine.io.mapfile import MapFile, find_maps, read_map
from stochx.errors import InputError
from stochx.tasks.batches import Source
from stochx.tasks.score_maps import MapStore

log = logging.getLogger("stochx")


def open_maps(root: Path) -> MapStore:
    """Index the maps below a folder by image and method; arrays are read when they are needed."""
    places: dict[str, dict[str, Callable[[], MapFile]]] = {}
    for path in find_maps(root):
        stored = read_map(path, root)
        methods = places.setdefault(stored.image, {})
        if stored.method in methods:
            raise InputError(
                f"`{path}` is a second map of `{stored.image}` by `{stored.method}`", "put each method into a folder"
            )
        methods[stored.method] = partial(read_map, path, root)
    return MapStore(places)


def with_maps(sources: list[Source], store: MapStore | None) -> list[Source]:
    """Keep the images that have stored maps, with the classes that these explain."""
    if store is None:
        return sources
    kept = []
    for source in sources:
        maps = store.of(source.name)
        if not maps:
            log.warning("`%s` has no map and is left out", source.name)
            continue
        targets = {open_map().target for open_map in maps.values()} - {None}
        if len(targets) > 1:
            raise InputError(f"the maps of `{source.name}` explain different classes", "score them apart")
        kept.append(dataclasses.replace(source, target=targets.pop() if targets else None))
    if not kept:
        raise InputError("none of the images has a map", f"the maps belong to `{next(iter(store.places))}` and others")
    return kept
