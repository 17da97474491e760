"""Architectures: networks that are not in torchvision, each with its usual normalisation.

Add one by writing `stochx/models/<name>.py` with one frozen dataclass that fits `Model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, Self

from stochx.catalog import MODELS, lazy_entries

if TYPE_CHECKING:
    from stochx.engine.io.images import Preparation as Preparation
    from stochx.engine.network.classifier import Classifier as Classifier

Shapes = Mapping[str, tuple[int, ...]]


class Model(Protocol):
    """number of classes -> an untrained `Classifier` with random weights."""

    def __call__(self, classes: int) -> Classifier: ...

    @classmethod
    def fits(cls, shapes: Shapes) -> Iterator[Self]:
        """Yield settings of this architecture that may fit a state dict of these shapes.

        A coarse check is enough: the caller builds each one and compares all names and shapes.
        """
        ...


__getattr__, __dir__ = lazy_entries(MODELS)
