"""Few-shot classification by heads, and training guided by their own explanations (Sun et al., 2020).

A head compares queries with the support images of N ways. A guide turns its relevance into weights w in [0, 2] of the
features that the head saw, and the loss is xi L(scores) + lambda L(scores of the weighted features).
E episodes, N ways, K shots, Q queries; features are maps (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.seeds import Key
from stochx.errors import InputError

SMOOTHING = 0.01


@dataclass(frozen=True)
class HeadCache:
    """What a head keeps of its forward pass, beside the maps that it was given.

    `judged` is what the loss is for: the scores (E, Q, N), or scores of every position (E, Q, N, H, W). `outputs`
    (..., N) are all that relevance starts from: the scores, or those of all nodes of a graph.
    """

    support: Tensor
    query: Tensor
    scores: Tensor
    judged: Tensor
    outputs: Tensor


P = TypeVar("P", bound=HeadCache)


class FewShotHead(nn.Module, Generic[P]):
    """support (E, N, K, C, H, W), query (E, Q, C, H, W) -> scores (E, Q, N) to be read by softmax, and the cache.

    `way` is fixed or None; a transductive head takes Q = N * q queries, the i-th of class i // q, and each score
    depends on others. Weights are shaped as the features `seen`; `axes` are the dimensions, counted from the end, over
    which the relevance of each is scaled. Relevance is recorded by autograd only where a head is `differentiable`.
    `by_means` says that of the support only the mean map of each class matters.
    """

    way: int | None = None
    transductive: bool = False
    differentiable: bool = False
    by_means: ClassVar[bool] = False
    axes: ClassVar[tuple[int, ...]] = (-3,)
    xi: float = 1.0  # the weight of the plain loss beside the guided one

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, P]:
        """Scores (E, Q, N), and the cache that explains them; raises `InputError` for maps or ways it cannot take."""
        self._check(support, query)
        cache = self.compare(support, query)
        return cache.scores, cache

    def compare(self, support: Tensor, query: Tensor) -> P:
        """The forward pass."""
        raise NotImplementedError

    def digest(self, maps: Tensor) -> Tensor:
        """What the scores depend on of maps (n, C, H, W), as smaller maps: worked out once for many episodes."""
        return maps

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the head compares maps of this shape (C, H, W)."""
        return shape == self.shape

    def seen(self, cache: P) -> tuple[Tensor, ...]:
        """The features that weights multiply, as the classifier saw them; gradients pass."""
        raise NotImplementedError

    def classify(self, cache: P, features: Sequence[Tensor]) -> Tensor:
        """What the loss judges (`judged`) for other features in place of those `seen`."""
        raise NotImplementedError

    def relevance(self, cache: P, r0: Tensor) -> tuple[Tensor, ...]:
        """Relevance of the features `seen`, linear in r0, that of the `outputs` or of the scores (E, Q, N)."""
        raise NotImplementedError

    def map_relevance(self, cache: P, r0: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance of the support's maps (E, N, K, C, H, W) and of the queries' (E, Q, C, H, W), linear in r0.

        Each adds up what an image's map received in all comparisons. Where a product of both is what counts, both sides
        receive the whole of it.
        """
        raise NotImplementedError

    def evidence(self, cache: P) -> Tensor:
        """The sums (E, Q, N) behind the scores: as r0 they give every feature what it contributes to a class."""
        return cache.scores

    def loss(self, scores: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of scores (E, Q, N, ...) for classes y (E, Q) in 0..N-1, in every position."""
        spread = y.view(*y.shape, *[1] * (scores.dim() - 3)).expand(*y.shape, *scores.shape[3:])
        return F.cross_entropy(scores.movedim(2, 1), spread)

    def auxiliary(self, cache: P, y: Tensor, base: Tensor) -> Tensor | None:
        """A further loss for queries (E, Q) of the `base` classes, where a head has one."""
        return None

    def guided_weight(self, shot: int) -> float:
        """The reference's lambda: 0.5 for one shot, 1 for more."""
        return 0.5 if shot == 1 else 1.0

    @property
    def inference(self) -> str:
        """What a query's score depends on in use: `inductive`, `batch statistics` of the episode, or `transductive`."""
        if self.transductive:
            return "transductive"
        norms = [module.running for module in self.modules() if hasattr(module, "running")]
        return "inductive" if all(norms) else "batch statistics"

    def check_way(self, ways: int) -> None:
        """Raises `InputError` where the head serves another number of ways only."""
        if self.way not in (None, ways):
            raise InputError(f"the head was trained for {self.way} ways, got {ways}", f"use `--way {self.way}`")

    def _check(self, support: Tensor, query: Tensor) -> None:
        ways = support.shape[1]
        for size in (tuple(support.shape[3:]), tuple(query.shape[2:])):
            if not self.takes(size):
                made, got = ("x".join(map(str, shape)) for shape in (self.shape, size))
                raise InputError(
                    f"the head is made for feature maps of {made}, got {got}",
                    "use images of the size that it was trained on",
                )
        self.check_way(ways)
        if self.transductive and query.shape[1] % ways:
            raise InputError(
                f"{query.shape[1]} queries for {ways} ways: graphs hold one query of each class",
                "use as many queries of every class, or a head with `transductive=false`",
            )


class Guide(Protocol):
    """head, its cache, keys of randomness -> weights in [0, 2], shaped as the features `seen`.

    `xi` and `lambda_` below 0 mean the head's own; lambda 0 is plain training.
    """

    @property
    def xi(self) -> float: ...

    @property
    def lambda_(self) -> float: ...

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]: ...


def initial_relevance(scores: Tensor) -> Tensor:
    """Log-odds of every class: log (N - 1)(P + e) / (1 + e - P), e = 0.01, for scores (..., N), P their softmax.

    At chance it is near 0 (0.036 for 5 ways), not 0.
    """
    p, others = scores.softmax(-1), scores.shape[-1] - 1
    return math.log(max(others, 1)) + (p + SMOOTHING).log() - (1 + SMOOTHING - p).log()


def contrast(evidence: Tensor, chosen: int) -> Tensor:
    """r0 (..., N) of what speaks for class `chosen` rather than for the mean of the others."""
    others = evidence.shape[-1] - 1
    signs = torch.full_like(evidence, -1 / others)
    signs[..., chosen] = 1
    return evidence * signs


def weights_of(relevance: Tensor, axis: int) -> Tensor:
    """1 + R / max |R| over `axis`, in [0, 2]; 1 where all is 0."""
    if relevance.requires_grad:  # only the winner passes a gradient, which is what is cheap about it
        peak = relevance.gather(axis, relevance.detach().abs().argmax(axis, keepdim=True)).abs()
    else:
        peak = torch.maximum(relevance.amax(axis, keepdim=True), -relevance.amin(axis, keepdim=True))
    return (relevance / torch.where(peak == 0, 1, peak)).add_(1)


def feature_weights(head: FewShotHead[Any], relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The weights that a head's relevance becomes."""
    return tuple(weights_of(part, axis) for part, axis in zip(relevance, head.axes, strict=True))


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms inside keep their running statistics, and still normalise as their mode says."""
    tracking = [part for part in module.modules() if getattr(part, "track_running_stats", False)]
    for part in tracking:
        part.track_running_stats = False  # type: ignore[assignment]  # a setting, no tensor
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True  # type: ignore[assignment]


def guided_loss(
    head: FewShotHead[Any],
    guide: Guide,
    support: Tensor,
    query: Tensor,
    y: Tensor,
    keys: Sequence[Key] = (),
    base: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss xi L + lambda L_guided of a batch of episodes, and its scores (E, Q, N).

    support (E, N, K, C, H, W), query (E, Q, C, H, W), y (E, Q); `keys` decide what a random guide draws; `base` (E, Q)
    are the queries' classes among all of training, for heads with an auxiliary loss.
    """
    scores, cache = head(support, query)
    share = head.guided_weight(support.shape[2]) if guide.lambda_ < 0 else guide.lambda_
    xi = guide.xi if guide.xi >= 0 else head.xi if share else 1.0
    extra = None if base is None else head.auxiliary(cache, y, base)
    terms = [] if extra is None else [extra]
    if xi:
        terms.append(xi * head.loss(cache.judged, y))
    if share:
        weights = guide(head, cache, keys)
        weighted = [feature * weight for feature, weight in zip(head.seen(cache), weights, strict=True)]
        with frozen_statistics(head):
            terms.append(share * head.loss(head.classify(cache, weighted), y))
    return torch.stack(terms).sum(), scores
