"""The part of an undivided data set that training leaves out, so that a network is judged on images it has not seen."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from stochx.engine.io.data import Data
from stochx.engine.seeds import digest

SHARE = 0.2
ENTRY = "held out"  # of a network's origin


@dataclass(frozen=True)
class HeldOut:
    """A part of a data set: its share of each class, and the hash of the whole set's keys and classes.

    The images are drawn by their keys alone, so that the part is the same for every run, seed and network.
    """

    share: float
    hash: str

    @classmethod
    def of(cls, data: Data) -> HeldOut:
        """Return the part of `data` that is held out by default."""
        return cls(SHARE, data_hash(data))

    @classmethod
    def noted(cls, origin: Mapping[str, str]) -> HeldOut | None:
        """Return what a network's origin notes; None if it notes nothing that can be read."""
        values = dict(part.partition("=")[::2] for part in origin.get(ENTRY, "").split(","))
        try:
            part = cls(float(values["share"]), values["hash"])
        except (KeyError, ValueError):
            return None
        return part if 0 < part.share < 1 else None

    def note(self) -> dict[str, str]:
        """Return the entry of a network's origin."""
        return {ENTRY: f"share={self.share:g},hash={self.hash}"}

    def places(self, data: Data) -> list[int]:
        """Return the indices of the held-out images: a share of each class, rounded, but never all or none of two."""
        by_class = defaultdict[int, list[int]](list)
        for place, label in enumerate(data.labels or ()):
            by_class[int(label)].append(place)
        places = []
        for members in by_class.values():
            count = min(max(1, round(self.share * len(members))), len(members) - 1)
            places += sorted(members, key=lambda place: digest("held out", data.keys[place]))[:count]
        return sorted(places)


def data_hash(data: Data) -> str:
    """Return a hash of the keys of a data set and the names of their classes, in order."""
    labels = data.labels if data.labels is not None else [-1] * len(data)
    names = (*data.classes, "")
    lines = "".join(f"{key}\t{names[int(label)]}\n" for key, label in zip(data.keys, labels, strict=True))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]
