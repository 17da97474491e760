"""Averages over noisy copies of an image, and conversion of the noise from the papers' units to pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.gradients import Backward, Term, around
from stochx.engine.montecarlo import mean, monte_carlo
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import Key, generator

Unit = Literal["normalised", "range"]


def noise_in_pixels(model: nn.Module, x: Tensor, sigma: float | Tensor, unit: Unit) -> Tensor:
    """Return the standard deviation of the noise in pixels, (N, C or 1, 1, 1).

    `sigma`, one for all or (N,), is absolute in normalised units, or a fraction of the range of each normalised
    image. Both are multiplied by the per-channel std: (x - r) * gradient is the same in pixels and normalised units.
    """
    std = model.std.to(x) if isinstance(model, Classifier) else x.new_ones(1, 1, 1, 1)
    strength = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)).view(-1, 1, 1, 1)
    if unit == "normalised":
        return strength * std
    seen = normalised(model, x).flatten(1)
    span = seen.amax(1) - seen.amin(1)
    return strength * span.view(-1, 1, 1, 1) * std


def normalised(model: nn.Module, x: Tensor) -> Tensor:
    """Normalise pixels as the network does."""
    return model.normalise(x) if isinstance(model, Classifier) else x


def over_noise(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    keys: Sequence[Key] | None,
    *,
    sigma: Tensor,
    count: int,
    error: float,
    terms: Sequence[Term] = (),
    finish: Callable[[Tensor, int], Tensor] = mean,
    fewest: int = 1,
    backward: Backward = "plain",
    paired: bool = False,
) -> Explanation:
    """Return `finish` of the terms summed over up to `count` noisy copies, with its Monte-Carlo error.

    `paired` copies have opposite noise; `fewest` is what `finish` needs.
    """
    names = keys if keys is not None else range(len(x))

    def draw(active: Tensor, points: range) -> Tensor:
        chosen = [names[n] for n in active.tolist()]
        return around(model, x[active], target[active], chosen, sigma[active], points, terms, backward, paired)

    estimate = monte_carlo(draw, len(x), count, error, finish, group=2 if paired else 1, fewest=fewest)
    return Explanation(estimate.map, estimate.error, used=estimate.used)


def uniform_image(like: Tensor, key: Key, index: int) -> Tensor:
    """Return image number `index` (C, H, W) of uniform noise of the image `key`, a baseline without structure."""
    source = generator(key, "baseline", index, device=like.device)
    return torch.rand(like.shape[1:], generator=source, device=like.device, dtype=torch.float32).to(like.dtype)
