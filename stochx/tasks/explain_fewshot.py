"""Explanations of few-shot networks: the evidence for each class in the query and in the support."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stochx.engine.device import in_batches
from stochx.engine.fewshot.head import contrast
from stochx.engine.fewshot.network import FewShotNetwork
from stochx.engine.lrp.branches import merged
from stochx.engine.lrp.tape import RelevanceTape, Rules
from stochx.engine.network.backbone import maps_graph
from stochx.errors import RunError

ROWS = 16  # images whose relevance is propagated at once


@dataclass(frozen=True)
class Matched:
    """Signed pixel maps (..., 3, H, W) of one query and N classes of K support images.

    `query` (N, 3, H, W) holds the evidence for a class minus the mean of the others; `support` (N, K, 3, H, W) the
    evidence for its class's own score, whose sum is negative where the score is. `evidence` (N,) are the explained
    values, `probabilities` (N,) those of the classes.
    """

    probabilities: Tensor
    evidence: Tensor
    query: Tensor
    support: Tensor


def explain_match(model: FewShotNetwork, support: Tensor, query: Tensor, rules: Rules) -> Matched:
    """Propagate the head's evidence to the pixels of all images by LRP (Sun et al., 2020, section on heatmaps).

    support (N, K, 3, H, W), query (3, H, W) in [0, 1]. The head uses its own rules, the backbone `rules`. Raises
    `RunError` for scores or maps that are not finite, `InputError` for a backbone that cannot be traced.
    """
    ways, shots = support.shape[:2]
    images = torch.cat([support.flatten(0, 1), query[None]])
    with torch.no_grad():
        maps = _maps(model, images)
        examples, queries = torch.unflatten(maps[:-1], 0, (ways, shots))[None], maps[-1:][None]
        scores, cache = model.head(examples, queries)
        if not scores.isfinite().all():
            raise RunError("the scores of the few-shot network are not finite", "train it again")
        evidence = model.head.evidence(cache)
        of_support, of_query = [], []
        for k in range(ways):
            on_support, on_query = model.head.map_relevance(cache, contrast(evidence, k))
            of_support.append(on_support[0, k])
            of_query.append(on_query[0, 0])
    start = torch.cat([torch.stack(of_support).flatten(0, 1), torch.stack(of_query)])
    pixels = _to_pixels(model, torch.cat([images[:-1], images[-1:].expand(ways, -1, -1, -1)]), start, rules)
    if not pixels.isfinite().all():
        raise RunError("the relevance of the few-shot network is not finite", "use another composite of `lrp`")
    on_support, on_query = pixels[:-ways].view(support.shape), pixels[-ways:]
    return Matched(scores[0, 0].softmax(0), contrasts(evidence[0, 0]), on_query, on_support)


def contrasts(evidence: Tensor) -> Tensor:
    """Return each of N numbers minus the mean of the others."""
    return (evidence * len(evidence) - evidence.sum()) / (len(evidence) - 1)


def _to_pixels(model: FewShotNetwork, images: Tensor, relevance: Tensor, rules: Rules) -> Tensor:
    """Propagate relevance of maps (n, C, h, w) to the pixels of their images (n, 3, H, W)."""
    view, graph = model.backbone.model, merged(maps_graph(model.backbone))
    low, high = view.normalise(torch.zeros_like(images[:1])), view.normalise(torch.ones_like(images[:1]))
    pixels = torch.empty_like(images)

    def propagate(start: int, stop: int) -> None:
        tape = RelevanceTape(graph, view.normalise(images[start:stop]), rules)
        pixels[start:stop] = tape.relevance(relevance[start:stop], low, high)

    in_batches(len(images), ROWS, propagate)
    return pixels


def _maps(model: FewShotNetwork, images: Tensor) -> Tensor:
    """Return the feature maps (n, C, h, w) of images (n, 3, H, W)."""
    parts: list[Tensor] = []
    in_batches(len(images), len(images), lambda start, stop: parts.append(model(images[start:stop])))
    return torch.cat(parts)
