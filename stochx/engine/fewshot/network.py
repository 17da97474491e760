"""A whole few-shot network: a backbone that gives feature maps, and a head that compares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.device import current, full_precision, in_batches, rows_at_once, saved_bytes
from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.io.scratch import scratch
from stochx.engine.network.backbone import Backbone
from stochx.errors import UsageError

ROUNDS = (7 / 15, 14 / 15)  # of the queries that become support in transductive inference: 35 and 70 of 75


class FewShotNetwork(nn.Module):
    """Images of few labelled classes and others -> scores; `head_text` builds the head again, `facts` tell its past."""

    def __init__(
        self, backbone: Backbone, head: FewShotHead[Any], head_text: str, way: int, facts: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.head_text, self.way, self.facts = backbone, head, head_text, way, dict(facts)

    @property
    def input_size(self) -> int:
        """The side of the square images, in pixels."""
        return self.backbone.model.input_size

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (..., C, h, w) of images (..., 3, H, W) in [0, 1], in the runtime's precision."""
        flat = x.flatten(0, -4).contiguous(memory_format=torch.channels_last)
        with current().autocast():
            maps: Tensor = self.backbone(flat)
        return maps.to(x.dtype).contiguous().view(*x.shape[:-3], *maps.shape[1:])


def cached_features(model: FewShotNetwork, pixels: Tensor, places: Tensor) -> Tensor:
    """Of the images `places` (n,) of `pixels` (N, 3, H, W) uint8 what the head needs of their maps; on the CPU."""
    like = next(model.parameters())
    found = scratch((len(places), *model.head.digest(like.new_zeros(1, *model.backbone.shape)).shape[1:]), like.dtype)
    row = like.new_zeros(1, 3, *pixels.shape[2:])
    with full_precision(), torch.inference_mode():

        def work(start: int, stop: int) -> None:
            x = pixels[places[start:stop]].to(like.device).to(like.dtype) / 255
            found[start:stop] = model.head.digest(model(x)).cpu()

        in_batches(len(places), max(32, rows_at_once(saved_bytes(model, row), like.device)), work)
    return found


def scores_of(head: FewShotHead[Any], support: Tensor, query: Tensor, transductive: bool) -> Tensor:
    """Scores (E, Q, N) of maps support (E, N, K, ...), query (E, Q, ...).

    Transductive inference in two rounds (Hou et al., 2019): the queries that the head is surest of join the mean of
    the class that it takes them for, each round anew from the given support. For heads that compare class means.
    """
    scores: Tensor = head(support, query)[0]
    if not transductive:
        return scores
    for share in ROUNDS:
        sure, said = scores.softmax(2).max(2)
        chosen = sure.topk(max(1, round(share * query.shape[1])), 1).indices
        member = F.one_hot(said.gather(1, chosen), support.shape[1]).to(query)
        rows = torch.arange(len(query), device=query.device)[:, None]
        sums = support.sum(2) + torch.einsum("ekn,ekchw->enchw", member, query[rows, chosen])
        count = support.shape[2] + member.sum(1)
        scores = head((sums / count[..., None, None, None]).unsqueeze(2), query)[0]
    return scores


def check_transductive(head: FewShotHead[Any], text: str) -> None:
    """Raises `UsageError` for a head that more than class means matter to."""
    if not head.by_means:
        raise UsageError(
            f"the head `{text}` compares single images, and transductive inference moves class means",
            "leave `--transductive` out",
        )
