"""The strength of input noise, in the units that papers use."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from stochx.engine.classifier import Classifier

Unit = Literal["normalised", "range"]


def noise_in_pixels(model: nn.Module, x: Tensor, sigma: float, unit: Unit) -> Tensor:
    """The standard deviation of the noise in pixels, (N, C or 1, 1, 1).

    `sigma` is absolute in normalised units, or a fraction of the range of each normalised image. Both are
    multiplied by the per-channel std: (x - r) * gradient is the same in pixels and in normalised units.
    """
    std = model.std.to(x) if isinstance(model, Classifier) else x.new_ones(1, 1, 1, 1)
    if unit == "normalised":
        return (sigma * std).expand(len(x), -1, -1, -1)
    seen = (model.normalise(x) if isinstance(model, Classifier) else x).flatten(1)
    span = seen.amax(1) - seen.amin(1)
    return sigma * span.view(-1, 1, 1, 1) * std
