"""Images that a network was trained on, which say little about its accuracy on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from stochx.engine.io.fingerprints import fingerprint
from stochx.engine.passes import Report, unreported
from stochx.engine.workers import Workers
from stochx.errors import InputError
from stochx.tasks.batches import Source
from stochx.tasks.reading import READERS


def trained_among(named: Iterable[tuple[str, Tensor]], trained: Tensor) -> list[str]:
    """Return the names of the images (3, H, W) whose fingerprints are in `trained`."""
    known = {*trained.tolist()}
    return [name for name, pixels in named if fingerprint(pixels) in known]


def trained_sources(sources: Sequence[Source], trained: Tensor, report: Report = unreported) -> list[str]:
    """Return the names of the images that are in `trained`; those that cannot be read are not.

    `report` counts the images that were read.
    """
    known = {*trained.tolist()}

    def is_known(source: Source) -> bool:
        try:
            return fingerprint(source.read().image) in known
        except InputError:
            return False

    names = []
    with Workers(READERS) as readers:
        for source, found in zip(sources, readers.map(is_known, sources), strict=True):
            if found:
                names.append(source.name)
            report(1)
    return names
