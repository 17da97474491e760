"""Metrics: how good a map is, by what it does to the network, by where it points, or by how it looks.

Add one by writing `stochx/metrics/<name>.py` with one frozen dataclass that fits `Metric`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from stochx.catalog import METRICS, lazy_entries

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stochx.engine.seeds import Key as Key

Need = Literal["model", "explain", "mask"]


@dataclass(frozen=True)
class Evidence:
    """What a metric may look at, for N images of one size; the method's name is not among it.

    `x` (N, C, H, W) in [0, 1], `target` (N,), `map` (N, C or 1, H, W) signed and finite. `keys`, one for each image,
    decide its random draws: two methods under the same keys meet the same ones. `explain(model, x, target)` makes
    the map again, with the same draws, for another network or other pixels. `mask` (N, H, W) is true on the object.
    What a metric does not list in `needs` may be None.
    """

    map: Tensor
    keys: Sequence[Key]
    x: Tensor | None = None
    target: Tensor | None = None
    model: nn.Module | None = None
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Score:
    """One number an image, and the curve behind it.

    `value` (N,) is NaN where the metric is undefined, and `why` says for each such image (by its place) the reason.
    `curve` (N, P) over `places` (P,). `setting` tells what was scaled to the size of the image.
    """

    value: Tensor
    curve: Tensor | None = None
    places: Tensor | None = None
    why: dict[int, str] = field(default_factory=dict)
    setting: str = ""


class Metric(Protocol):
    """`Evidence` -> `Score`; attributes of the class or of the entry declare what it is."""

    needs: ClassVar[frozenset[Need]]
    axis: ClassVar[str]  # name of the curve's places; empty for a metric without a curve

    @property
    def higher_is_better(self) -> bool | None:
        """Which way is better; None for a number that is only to compare with."""

    @property
    def reduction(self) -> str:
        """What it takes of a map (C, H, W)."""

    def __call__(self, evidence: Evidence) -> Score: ...


__getattr__, __dir__ = lazy_entries(METRICS)
