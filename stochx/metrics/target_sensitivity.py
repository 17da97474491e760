"""Target sensitivity."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.parts import Parts
from stochx.engine.statistics import SHARE, Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._parts import outputs, parts_of, shares, with_reasons
from stochx.metrics._undefined import undefined

ROUNDING = 1e-6  # of a share, by which equal ones may differ
NO_PAIR = "no two other classes share different parts with the object"


@dataclass(frozen=True)
class TargetSensitivity:
    """Target sensitivity: whether parts that the object shares with a class weigh more in the map for that class.

        mean of [A(S_A) > B(S_A)] and [B(S_B) > A(S_B)],  A(S) = share on the parts S of the map for class A

    S_A are the parts that the object has in common with class A but not with class B, S_B those of B: neither is the
    object's own class. The two classes are those that share the most parts (Hesse et al., 2023). A map that does not
    depend on the class has 1/2, as equal shares count half. It takes two more maps. Undefined where no two classes
    share different parts with the object.
    """

    reduce: Literal["abs", "signed"] = "abs"  # share of absolute sums less that of the area, or of signed channel sums

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain", "parts"})
    axis: ClassVar[str] = ""
    bounds: ClassVar[Bounds] = SHARE

    @property
    def reduction(self) -> str:
        """Quantity that is compared between two maps."""
        return f"{self.reduce} channel sum on parts"

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.explain is not None
        parts = parts_of(evidence)
        pairs = [_pair(each, own) for each, own in zip(parts, outputs(evidence), strict=True)]
        found = [pair or _Pair((0, 0), ([], [])) for pair in pairs]
        maps, weights = [], []
        for side in range(2):
            target = torch.tensor([pair.targets[side] for pair in found], device=evidence.x.device)
            maps.append(evidence.explain(evidence.model, evidence.x, target))
            weights.append(shares(maps[-1], parts, self.reduce))
        value = torch.stack([_won(pair, *(w[n] for w in weights)) for n, pair in enumerate(found)])
        score = undefined(Score(value), {NO_PAIR: torch.tensor([pair is None for pair in pairs])})
        for other in maps:
            score = with_reasons(replace(evidence, map=other), score, self.reduce)
        return with_reasons(evidence, score, self.reduce)


@dataclass(frozen=True)
class _Pair:
    """Two outputs of the network, and the parts that the object shares with each class alone."""

    targets: tuple[int, int]
    shared: tuple[list[int], list[int]]


def _pair(parts: Parts, own: Sequence[int | None]) -> _Pair | None:
    """Return the pair of classes that share the most parts with an object, both of them; None where there is none."""
    present = [part for part, variant in enumerate(parts.variants) if variant is not None]
    common = [{part for part in present if row[part] == parts.variants[part]} for row in parts.table]
    others = [row for row in range(len(parts.table)) if row != parts.label and own[row] is not None]
    best, most = None, (0, 0)
    for a, b in itertools.combinations(others, 2):
        shared = sorted(common[a] - common[b]), sorted(common[b] - common[a])
        size = min(map(len, shared)), max(map(len, shared))
        if size[0] and size > most:
            best, most = _Pair((own[a] or 0, own[b] or 0), shared), size
    return best


def _won(pair: _Pair, first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of two comparisons of shares (Q,): 1 for more, 0 for less, half for equal ones."""
    own = torch.tensor([[float(part in shared) for part in range(len(first))] for shared in pair.shared]).to(first)
    gaps = (own * torch.stack([first - second, second - first])).sum(1)
    signs = gaps.sign().where(gaps.abs() > ROUNDING, 0).where(gaps.isfinite(), torch.nan)
    return (signs.mean() + 1) / 2
