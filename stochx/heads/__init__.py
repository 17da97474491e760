"""Few-shot heads: classifiers that compare queries with a few labelled images of each class.

Add one by writing `stochx/heads/<name>.py` with one frozen dataclass that fits `Head`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stochx.catalog import HEADS, lazy_entries

if TYPE_CHECKING:
    from stochx.engine.fewshot.head import FewShotHead as FewShotHead
    from stochx.engine.fewshot.head import HeadCache as HeadCache


class Head(Protocol):
    """shape (C, H, W) of a feature map, number of ways -> an untrained head with random weights.

    Heads that take any number of ways ignore `way`.
    """

    def __call__(self, shape: tuple[int, int, int], way: int) -> FewShotHead[Any]: ...


__getattr__, __dir__ = lazy_entries(HEADS)
