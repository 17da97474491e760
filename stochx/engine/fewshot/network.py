"""A few-shot network: a backbone that computes feature maps, and a head that compares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.arguments import check_images, check_model
from stochx.engine.device import current, fast_layout, full_precision, in_batches, rows_at_once, saved_bytes
from stochx.engine.fewshot.head import FewShotHead
from stochx.engine.io.scratch import scratch
from stochx.engine.modes import plain_modes
from stochx.engine.network.backbone import Backbone
from stochx.engine.network.stochastic import at_scale
from stochx.engine.passes import Report, unreported
from stochx.errors import InputError, RunError, UsageError

ROUNDS = (7 / 15, 14 / 15)  # shares of the queries that join the support in transductive inference: 35 and 70 of 75


class FewShotNetwork(nn.Module):
    """A backbone and a head; `head_text` is the spec that rebuilds the head, `facts` describe its training."""

    def __init__(
        self, backbone: Backbone, head: FewShotHead[Any], head_text: str, way: int, facts: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.head_text, self.way, self.facts = backbone, head, head_text, way, dict(facts)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.backbone.model.input_shape

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (..., C, h, w) of images (..., 3, H, W) in [0, 1], in the runtime's precision."""
        flat = x.flatten(0, -4).contiguous(memory_format=fast_layout(self.backbone))
        with current().autocast():
            maps: Tensor = self.backbone(flat)
        return maps.to(x.dtype).contiguous().view(*x.shape[:-3], *maps.shape[1:])

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Return the scores (Q, N) of images `query` (Q, 3, H, W) for the classes of `support` (N, K, 3, H, W).

        Those of a single query (3, H, W) are (N,). Raises `StochxError` for images that cannot be used.
        """
        with plain_modes():
            if not isinstance(support, Tensor) or support.dim() != 5:
                shape = tuple(support.shape) if isinstance(support, Tensor) else type(support).__name__
                raise InputError(f"`support` is {shape}", "give K images of each of N classes: (N, K, C, H, W)")
            check_model(self)
            queries, alone = check_images(self, query, pixels=True)
            examples, _ = check_images(self, support.flatten(0, 1), pixels=True)
            with full_precision(), torch.no_grad(), at_scale(self, 0.0):
                maps = self(examples).unflatten(0, support.shape[:2])
                found = scores_of(self.head, maps[None], self(queries)[None], transductive=False)[0]
        return found[0] if alone else found


def cached_features(model: FewShotNetwork, pixels: Tensor, places: Tensor, report: Report = unreported) -> Tensor:
    """Return the head's digest of the maps of images `places` (n,) of `pixels` (N, C, H, W) uint8, on the CPU."""
    like = next(model.parameters())
    digests = scratch((len(places), *model.head.digest(like.new_zeros(1, *model.backbone.shape)).shape[1:]), like.dtype)
    row = like.new_zeros(1, *pixels.shape[1:])
    with full_precision(), torch.inference_mode():

        def work(start: int, stop: int) -> None:
            x = pixels[places[start:stop]].to(like.device).to(like.dtype) / 255
            digests[start:stop] = model.head.digest(model(x)).cpu()
            report(stop - start)

        in_batches(len(places), max(32, rows_at_once(saved_bytes(model, row), like.device)), work)
    return digests


def scores_of(head: FewShotHead[Any], support: Tensor, query: Tensor, transductive: bool) -> Tensor:
    """Return the scores (E, Q, N) of maps support (E, N, K, ...) and query (E, Q, ...).

    Transductive inference takes two rounds (after Hou et al., 2019): the most confident queries join the mean of their
    predicted class, starting from the original support in each round. Their code ranks queries by the raw score of the
    predicted class; here it is the softmax over classes, which did better. For heads that compare class means.

    Raises `RunError` for scores that are not finite.
    """
    scores = _finite_scores(head, support, query)
    for share in ROUNDS if transductive else ():
        confidence, predicted = scores.softmax(2).max(2)
        chosen = confidence.topk(max(1, round(share * query.shape[1])), 1).indices
        member = F.one_hot(predicted.gather(1, chosen), support.shape[1]).to(query)
        rows = torch.arange(len(query), device=query.device)[:, None]
        sums = support.sum(2) + torch.einsum("ekn,ekchw->enchw", member, query[rows, chosen])
        count = support.shape[2] + member.sum(1)
        scores = _finite_scores(head, (sums / count[..., None, None, None]).unsqueeze(2), query)
    return scores


def _finite_scores(head: FewShotHead[Any], support: Tensor, query: Tensor) -> Tensor:
    scores: Tensor = head(support, query)[0]
    if not scores.isfinite().all():
        raise RunError("the scores of the few-shot network are not finite", "train it again")
    return scores


def check_transductive(head: FewShotHead[Any], text: str) -> None:
    """Raise `UsageError` for a head that depends on more than class means."""
    if not head.by_means:
        raise UsageError(
            f"the head `{text}` compares single images, but transductive inference updates class means",
            "leave out `--transductive`",
        )
