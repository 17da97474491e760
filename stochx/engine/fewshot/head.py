"""Few-shot heads, and training guided by explanations of their scores (Sun et al., 2020).

A head compares queries with the support images of N ways. A guide turns its relevance into weights w in [0, 2] of the
head's features, and the loss is xi L(scores) + lambda L(scores of the weighted features).
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
    """Values of a head's forward pass that its loss and its relevance need, with the input maps.

    `judged` is the argument of the loss: the scores (E, Q, N), or scores of every position (E, Q, N, H, W). `outputs`
    (..., N) is where relevance starts: the scores, or those of all nodes of a graph.
    """

    support: Tensor
    query: Tensor
    scores: Tensor
    judged: Tensor
    outputs: Tensor


P = TypeVar("P", bound=HeadCache)


class FewShotHead(nn.Module, Generic[P]):
    """support (E, N, K, C, H, W), query (E, Q, C, H, W) -> scores (E, Q, N) for a softmax, and the cache.

    `way` is fixed or None; a transductive head takes Q = N * q queries, the i-th of class i // q, and its scores depend
    on all queries. Weights have the shape of the features `seen`; `axes` are the dimensions, counted from the end, over
    which the relevance of each is normalised. Autograd records relevance only if a head is `differentiable`.
    `by_means`: scores depend on the support through the mean map of each class only.
    """

    way: int | None = None
    transductive: bool = False
    differentiable: bool = False
    by_means: ClassVar[bool] = False
    axes: ClassVar[tuple[int, ...]] = (-3,)
    xi: float = 1.0  # weight of the plain loss beside the guided one

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, P]:
        """Return scores (E, Q, N) and the cache; raises `InputError` for maps or ways that the head does not accept."""
        self._check(support, query)
        cache = self.compare(support, query)
        return cache.scores, cache

    def compare(self, support: Tensor, query: Tensor) -> P:
        """Run the forward pass."""
        raise NotImplementedError

    def digest(self, maps: Tensor) -> Tensor:
        """Reduce maps (n, C, H, W) to the part that scores depend on, to be computed once for many episodes."""
        return maps

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return True if the head accepts maps of this shape (C, H, W)."""
        return shape == self.shape

    def seen(self, cache: P) -> tuple[Tensor, ...]:
        """Return the features that a guide's weights multiply, with gradients."""
        raise NotImplementedError

    def classify(self, cache: P, features: Sequence[Tensor]) -> Tensor:
        """Return `judged` for other features in place of those `seen`."""
        raise NotImplementedError

    def relevance(self, cache: P, r0: Tensor) -> tuple[Tensor, ...]:
        """Return the relevance of the features `seen`, linear in r0, the relevance of `outputs` or scores (E, Q, N)."""
        raise NotImplementedError

    def map_relevance(self, cache: P, r0: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of support maps (E, N, K, C, H, W) and query maps (E, Q, C, H, W), linear in r0.

        Each map gets the sum over all its comparisons. Both factors of a product receive its whole relevance.
        """
        raise NotImplementedError

    def evidence(self, cache: P) -> Tensor:
        """Return the sums (E, Q, N) behind the scores, which as r0 assign each feature its contribution to a class."""
        return cache.scores

    def loss(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy of scores (E, Q, N, ...) for classes y (E, Q) in 0..N-1, in every position."""
        spread = y.view(*y.shape, *[1] * (scores.dim() - 3)).expand(*y.shape, *scores.shape[3:])
        return F.cross_entropy(scores.movedim(2, 1), spread)

    def auxiliary(self, cache: P, y: Tensor, base: Tensor) -> Tensor | None:
        """Return an auxiliary loss for the queries' `base` classes (E, Q); None if the head has none."""
        return None

    def guided_weight(self, shot: int) -> float:
        """Return the reference's lambda: 0.5 for one shot, 1 for more."""
        return 0.5 if shot == 1 else 1.0

    @property
    def inference(self) -> str:
        """Kind of inference in eval mode: `inductive`, `batch statistics` of the episode, or `transductive`."""
        if self.transductive:
            return "transductive"
        norms = [module.running for module in self.modules() if hasattr(module, "running")]
        return "inductive" if all(norms) else "batch statistics"

    def check_way(self, ways: int) -> None:
        """Raise `InputError` if the head serves another number of ways only."""
        if self.way not in (None, ways):
            raise InputError(f"the head was trained for {self.way} ways, got {ways}", f"use `--way {self.way}`")

    def _check(self, support: Tensor, query: Tensor) -> None:
        ways = support.shape[1]
        for size in (tuple(support.shape[3:]), tuple(query.shape[2:])):
            if not self.takes(size):
                expected, got = ("x".join(map(str, shape)) for shape in (self.shape, size))
                raise InputError(
                    f"the head expects feature maps of {expected}, got {got}",
                    "use images of the size that it was trained with",
                )
        self.check_way(ways)
        if self.transductive and query.shape[1] % ways:
            raise InputError(
                f"{query.shape[1]} queries for {ways} ways: a graph holds one query of each class",
                "use the same number of queries for every class, or a head with `transductive=false`",
            )


class Guide(Protocol):
    """head, its cache, random keys -> weights in [0, 2], with the shapes of the features `seen`.

    `xi` and `lambda_` below 0 mean the head's defaults; lambda 0 is plain training.
    """

    @property
    def xi(self) -> float: ...

    @property
    def lambda_(self) -> float: ...

    def __call__(self, head: FewShotHead[Any], cache: Any, keys: Sequence[Key]) -> tuple[Tensor, ...]: ...


def initial_relevance(scores: Tensor) -> Tensor:
    """Return the log-odds of every class: log (N - 1)(P + e) / (1 + e - P), e = 0.01, P the softmax of scores (..., N).

    At chance it is near 0 (0.036 for 5 ways), not 0.
    """
    p, others = scores.softmax(-1), scores.shape[-1] - 1
    return math.log(max(others, 1)) + (p + SMOOTHING).log() - (1 + SMOOTHING - p).log()


def contrast(evidence: Tensor, chosen: int) -> Tensor:
    """Return r0 (..., N) of the evidence for class `chosen` minus the mean of the others."""
    others = evidence.shape[-1] - 1
    signs = torch.full_like(evidence, -1 / others)
    signs[..., chosen] = 1
    return evidence * signs


def weights_of(relevance: Tensor, axis: int) -> Tensor:
    """Return 1 + R / max |R| over `axis`, in [0, 2]; 1 if all R are 0."""
    if relevance.requires_grad:  # only the maximum passes a gradient, which is cheap
        peak = relevance.gather(axis, relevance.detach().abs().argmax(axis, keepdim=True)).abs()
    else:
        peak = torch.maximum(relevance.amax(axis, keepdim=True), -relevance.amin(axis, keepdim=True))
    return (relevance / torch.where(peak == 0, 1, peak)).add_(1)


def scaled(head: FewShotHead[Any], relevance: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Turn a head's relevance into weights."""
    return tuple(weights_of(part, axis) for part, axis in zip(relevance, head.axes, strict=True))


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of batch norms in the block; they normalise as in their mode."""
    tracking = [part for part in module.modules() if getattr(part, "track_running_stats", False)]
    for part in tracking:
        part.track_running_stats = False  # type: ignore[assignment]  # a setting, not a tensor
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
    """Return the loss xi L + lambda L_guided of a batch of episodes, and its scores (E, Q, N).

    support (E, N, K, C, H, W), query (E, Q, C, H, W), y (E, Q); `keys` seed random guides; `base` (E, Q) are the
    queries' classes among all training classes, for heads with an auxiliary loss.
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
