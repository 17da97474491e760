"""Metrics: the quality of a map, judged by the network's response, by localisation, or by the map alone.

Add one by writing `stochx/metrics/<name>.py` with one frozen dataclass that fits `Metric`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from stochx.catalog import METRICS, lazy_entries

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stochx.engine.maps import Explainer as Explainer
    from stochx.engine.maps import Maps as Maps
    from stochx.engine.parts import Parts as Parts
    from stochx.engine.seeds import Key as Key

Need = Literal["model", "explain", "mask", "parts"]


@dataclass(frozen=True)
class Evidence:
    """The inputs of a metric, for N images of one size; the name of the explanation method is not among them.

    `x` (N, C, H, W) in [0, 1], `target` (N,), `map` (N, C or 1, H, W) signed and finite. `keys`, one per image, seed
    its random draws: methods evaluated under the same keys get the same draws. `explain(model, x, target)` recomputes
    the map, with the same draws, for another network or other pixels. `mask` (N, H, W) is true on the object, and
    `parts` are the parts that it can be drawn without. Fields that a metric does not list in `needs` may be None.
    """

    map: Tensor
    keys: Sequence[Key]
    x: Tensor | None = None
    target: Tensor | None = None
    model: nn.Module | None = None
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    mask: Tensor | None = None
    parts: Sequence[Parts] | None = None


@dataclass(frozen=True)
class Score:
    """One number per image, and the curve behind it.

    `value` (N,) is NaN where the metric is undefined; `why` maps the index of each such image to the reason.
    `curve` (N, P) over `places` (P,). `setting` describes sizes that were derived from the image's size.
    """

    value: Tensor
    curve: Tensor | None = None
    places: Tensor | None = None
    why: dict[int, str] = field(default_factory=dict)
    setting: str = ""


class Metric(Protocol):
    """`Evidence` -> `Score`; attributes of the class or of the entry declare its properties.

    A metric may also declare `bounds`, the least and the greatest value that its value and its curve can have, such as
    `(0.0, 1.0)`: then no interval leaves them, and that of a share is valid near its ends.
    `height`, the label of the curve's y axis, may be left out where it is what the field `read` says. `replaces` names
    the field that says what stands in the place of removed pixels: `--removals all` scores with each of its choices.
    """

    needs: ClassVar[frozenset[Need]]
    axis: ClassVar[str]  # label of the curve's x axis; empty for a metric without a curve

    @property
    def higher_is_better(self) -> bool | None:
        """True if higher is better, False if lower is; None for a number that only serves comparison."""

    @property
    def reduction(self) -> str:
        """Description of how a map (C, H, W) is reduced before scoring."""

    def __call__(self, evidence: Evidence) -> Score: ...


__getattr__, __dir__ = lazy_entries(METRICS)
