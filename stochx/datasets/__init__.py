"""Data sets: sources of images, labels and masks.

Add one by writing `stochx/datasets/<name>.py` with one frozen dataclass that fits `Dataset`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from stochx.catalog import DATASETS, lazy_entries

if TYPE_CHECKING:
    from stochx.engine.io.data import Data as Data
    from stochx.engine.io.data import from_arrays as from_arrays

Split = Literal["train", "val", "test"]


class Dataset(Protocol):
    """split: `train`, `val` or `test` -> `Data`; a data set without splits returns the same for all.

    The splits of few-shot domains share no class; elsewhere `val` equals `test` unless the data set has its own.
    """

    def __call__(self, split: Split) -> Data: ...


__getattr__, __dir__ = lazy_entries(DATASETS)
