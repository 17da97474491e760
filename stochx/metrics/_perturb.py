"""What a network says of altered images: many copies of many images in one stream, forward only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.device import current, in_batches
from stochx.engine.network.fused import fused

Read = Literal["logit", "probability", "margin"]
Build = Callable[[Tensor, Tensor], Tensor]  # (image (B,), copy (B,)) -> pixels (B, C, H, W)


def _margin(logits: Tensor, target: Tensor) -> Tensor:
    """The target's logit above the best other one."""
    own = logits.gather(1, target[:, None])
    others = logits.scatter(1, target[:, None], -torch.inf)
    return own.squeeze(1) - others.amax(1)


READ: dict[Read, Callable[[Tensor, Tensor], Tensor]] = {
    "logit": lambda logits, target: logits.gather(1, target[:, None]).squeeze(1),
    "probability": lambda logits, target: logits.softmax(1).gather(1, target[:, None]).squeeze(1),
    "margin": _margin,
}


def altered(model: nn.Module, x: Tensor, target: Tensor, copies: int, build: Build, read: Read = "logit") -> Tensor:
    """The score of `copies` alterations of each of N images, (N, copies), each built when its turn comes.

    `build(image, copy)` makes the pixels for these places in the batch and these numbers of copies; it decides by
    them alone, so that the cut into batches changes nothing. `x` (N, C, H, W) tells the shape.
    """
    fast, found = fused(model), x.new_empty(len(x) * copies)

    def work(start: int, stop: int) -> None:
        row = torch.arange(start, stop, device=x.device)
        image = row // copies
        with torch.inference_mode(), current().autocast():
            logits = fast.whole(build(image, row % copies))
            found[start:stop] = READ[read](logits.to(x.dtype), target[image])

    in_batches(len(found), 2 * fast.rows(x), work)
    return found.view(len(x), copies)
