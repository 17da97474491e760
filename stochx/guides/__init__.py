"""Guides: weights of a few-shot head's features in training, from explanations or from controls.

Add one by writing `stochx/guides/<name>.py` with one frozen dataclass that fits `Guide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stochx.catalog import GUIDES, lazy_entries

if TYPE_CHECKING:
    from stochx.engine.fewshot.head import FewShotHead as FewShotHead
    from stochx.engine.fewshot.head import Guide as Guide
    from stochx.engine.fewshot.head import scaled as scaled
    from stochx.engine.seeds import Key as Key

__getattr__, __dir__ = lazy_entries(GUIDES)
