"""Gradients of a head's scores with respect to its features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stochx.engine.fewshot.head import FewShotHead, frozen_statistics, initial_relevance


def slopes(head: FewShotHead[Any], cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Return each feature x of the head with d/dx sum R0 score, where R0 is the initial relevance of all classes.

    Scores of positions enter by their mean.
    """
    leaves = [feature.detach().requires_grad_() for feature in head.seen(cache)]
    with torch.enable_grad(), frozen_statistics(head):
        judged = head.classify(cache, leaves)
        r0 = initial_relevance(cache.scores.detach())
        gradients = torch.autograd.grad((r0 * judged.flatten(2).view(*r0.shape, -1).mean(3)).sum(), leaves)
    return [(leaf.detach(), slope) for leaf, slope in zip(leaves, gradients, strict=True)]
