"""Gaussian noise that a network adds to its own input, as students of randomised smoothing do."""

from __future__ import annotations

import torch
from torch import Tensor

from stochx.engine.network.classifier import Classifier
from stochx.engine.network.graph import UntraceableError, reads_values, trace
from stochx.engine.network.stochastic import Noisy, noise_layers


def input_noise(model: Classifier) -> tuple[Noisy, Tensor] | None:
    """Return the layer that adds Gaussian noise of fixed strength to all that the network sees, and sigma (3,).

    Sigma is in pixel units, per channel: the noise enters after the normalisation, where a pixel is 1 / std as large.
    None where there is no such layer: the noise must be independent for every image and value, must not depend on the
    image (`fixed_std` of the noise says so), and nothing may lie between the normalisation and it.
    """
    layers = noise_layers(model)
    if not layers or layers[0].place != "input":
        return None
    layer = layers[0]
    declared = getattr(layer.noise, "fixed_std", None)
    std = None if declared is None or getattr(layer.noise, "share", "none") != "none" else declared()
    if std is None or not _is_first(model, layer):
        return None
    per_channel = std.detach().abs().to(model.std) * layer.scale
    if per_channel.dim() == 3 and per_channel.shape[1:] == (1, 1):
        per_channel = per_channel.flatten()
    if per_channel.dim() > 1 or not (per_channel > 0).all():
        return None
    return layer, per_channel * model.std.flatten()


def _is_first(model: Classifier, layer: Noisy) -> bool:
    """Return true if the network uses the values of its input only as z + scale * noise(z)."""
    try:
        traced = trace(model.network)
    except UntraceableError:
        return False
    image = next(iter(traced.graph.nodes))
    readers = [node for node in image.users if reads_values(node)]
    calls = [node for node in readers if node.op == "call_module"]
    sums = [node for node in readers if node.op == "call_function" and node.target is torch.add]
    if len(readers) != 2 or len(calls) != 1 or len(sums) != 1:
        return False
    return traced.get_submodule(str(calls[0].target)) is layer.noise and sums[0].args == (image, calls[0])
