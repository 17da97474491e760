# Written by `python -m stochx.stubs` from the files of this folder; do not edit.
"""Few-shot heads: classifiers that compare queries with a few labelled images of each class.

Add one by writing `stochx/heads/<name>.py` with one frozen dataclass that fits `Head`.
"""
from __future__ import annotations
from typing import TYPE_CHECKING, Any, Protocol
from stochx.engine.fewshot.head import FewShotHead as FewShotHead
from stochx.engine.fewshot.head import HeadCache as HeadCache

class Head(Protocol):
    """shape (C, H, W) of a feature map, number of ways -> an untrained head with random weights.

    Heads that take any number of ways ignore `way`.
    """

    def __call__(self, shape: tuple[int, int, int], way: int) -> FewShotHead[Any]:
        ...
from stochx.heads.cosine import Cosine as Cosine
from stochx.heads.cross_attention import CrossAttention as CrossAttention
from stochx.heads.gnn import GNN as GNN
from stochx.heads.matching import Matching as Matching
from stochx.heads.prototypical import Prototypical as Prototypical
from stochx.heads.relation import Relation as Relation
