"""Data sets: where images, labels and masks come from.

Add one by writing `stochx/datasets/<name>.py` with one frozen dataclass that fits `Dataset`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from stochx.catalog import DATASETS, lazy_entries

if TYPE_CHECKING:
    from stochx.engine.data import Data

Split = Literal["train", "test"]


class Dataset(Protocol):
    """split: `train` or `test` -> `Data`; a data set without splits gives the same for both."""

    def __call__(self, split: Split) -> Data: ...


__getattr__, __dir__ = lazy_entries(DATASETS)
