"""`stochx.gradient` and `stochx.logits`: the engine's functions with checked arguments."""

from __future__ import annotations

from torch import Tensor, nn

from stochx.engine import gradients
from stochx.engine.arguments import Classes, are_ready, check_arguments
from stochx.engine.modes import is_inside, plain_modes


def gradient(model: nn.Module, x: Tensor, target: Classes | None = None) -> Tensor:
    """Return d logit[target] / d x for images x (N, C, H, W), or one image (C, H, W); see `attributions`.

    Raises `StochxError` for arguments that cannot be used.
    """
    if is_inside() and isinstance(target, Tensor) and are_ready(x, target):
        return gradients.gradient(model, x, target)
    with plain_modes():
        given = check_arguments(model, x, pixels=False)
        slope = gradients.gradient(given.model, given.x, given.class_indices(target))
    return slope[0] if given.alone else slope


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (N, K) of images x (N, C, H, W), or (K,) of one image, without gradients, in batches.

    Raises `StochxError` for arguments that cannot be used.
    """
    if is_inside() and x.dim() == 4:
        return gradients.logits(model, x)
    with plain_modes():
        given = check_arguments(model, x, pixels=False)
        out = gradients.logits(given.model, given.x)
    return out[0] if given.alone else out
