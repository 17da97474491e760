"""Gradients of a head's scores in the features that it saw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead, frozen_statistics, initial_relevance


def slopes(head: FewShotHead[Any], cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Every feature x that the head saw, and d/dx of sum R0 score: all classes at once, as relevance starts.

    Scores of positions count by their mean.
    """
    leaves = [feature.detach().requires_grad_() for feature in head.seen(cache)]
    with torch.enable_grad(), frozen_statistics(head):
        judged = head.classify(cache, leaves)
        r0 = initial_relevance(cache.scores.detach())
        found = torch.autograd.grad((r0 * judged.flatten(2).view(*r0.shape, -1).mean(3)).sum(), leaves)
    return [(leaf.detach(), slope) for leaf, slope in zip(leaves, found, strict=True)]
