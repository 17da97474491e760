"""Noise layers of a network: their scale, and the calibration of their statistics; `sites` are their places.

A noise layer is a module that returns a zero-mean deviation, which is added to a value: `z + scale * noise(z)`. So the
degree of stochasticity has the same meaning for all: 0 is the network without noise, 2 doubles every deviation.

Some noises have no such mean: their module says `replaces = True`, and returns the whole value. They can be neither
scaled nor turned off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from stochx.engine.network.classifier import Classifier
from stochx.engine.network.opening import opened
from stochx.engine.network.sites import SITES, Place, Site, evaluating, sites
from stochx.engine.normals import standard_normal
from stochx.engine.passes import Report, unreported
from stochx.errors import InputError, UsageError


def normal(z: Tensor, share: str) -> Tensor:
    """Draw standard normal noise of the shape of z (N, ...); see `drawn`."""
    return drawn(standard_normal, z, share)


def drawn(source: Callable[..., Tensor], z: Tensor, share: str) -> Tensor:
    """Draw from `source` in the shape of z (N, ...); with `share` = `batch` all images share one draw.

    Draws are channels-last whatever the layout of z: they do not depend on it, and torch's generator is eight times
    faster on a CPU when it fills memory in order.
    """
    count = len(z) if share == "none" else 1
    last = z.dim() == 4
    shape = (count, *z.shape[2:], z.shape[1]) if last else (count, *z.shape[1:])
    noise = source(shape, dtype=z.dtype, device=z.device)
    return (noise.permute(0, 3, 1, 2) if last else noise).expand_as(z)


class Noisy(nn.Module):
    """A layer with noise on its output, its input or its weight; `scale` is the degree of stochasticity.

    The noise of a `norm` is called with the norm's output, its input and its weight and bias, which it shares.
    """

    def __init__(self, layer: nn.Module, noise: nn.Module, place: Place) -> None:
        super().__init__()
        self.layer, self.noise, self.place, self.scale = layer, noise, place, 1.0

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the layer returns; other arguments than its value, such as masks, are the layer's."""
        layer: Any = self.layer
        out: Tensor
        if self.place == "output":
            out = self._shaken(layer(x, *args, **kwargs))
        elif self.place == "input":
            out = layer(self._shaken(x), *args, **kwargs)
        elif self.place == "norm":
            out = self.noise(layer(x), x, layer.weight, layer.bias)
        elif type(layer).forward is nn.Conv2d.forward:
            out = layer._conv_forward(x, self._shaken(layer.weight), layer.bias)
        elif type(layer).forward is nn.Linear.forward:
            out = F.linear(x, self._shaken(layer.weight), layer.bias)
        else:  # a custom layer, such as one that standardises its weight; this call cannot be traced
            out = functional_call(layer, {"weight": self._shaken(layer.weight)}, (x, *args), kwargs)
        return out

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer, such as `weight`, which networks may read."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":  # while a copy is made
                raise
            return getattr(self.layer, name)

    @property
    def replaces(self) -> bool:
        """Return true for noise without a mean network: draws replace the value."""
        return bool(getattr(self.noise, "replaces", False))

    def _shaken(self, z: Tensor) -> Tensor:
        if self.replaces:
            value: Tensor = self.noise(z)
            return value
        if self.scale == 0 and not self.training:  # in training the noise still updates its statistics
            return z
        return torch.add(z, self.noise(z), alpha=self.scale)


class NormalSum(nn.Module):
    """z + std * eps, eps ~ N(0, 1), for a `std` that broadcasts with z (N, *shape) and does not depend on it.

    It is a noisy layer's sum in one operation, with the same draws. With `inplace` it overwrites z.
    """

    std: Tensor

    def __init__(self, std: Tensor, share: str, inplace: bool) -> None:
        super().__init__()
        self.register_buffer("std", std.detach())
        self.share, self.inplace = share, inplace

    def forward(self, z: Tensor) -> Tensor:
        add = z.addcmul_ if self.inplace else z.addcmul
        return add(self.std.to(z), normal(z, self.share))


def noise_layers(model: nn.Module) -> list[Noisy]:
    """Return the noisy layers in order."""
    return [module for module in model.modules() if isinstance(module, Noisy)]


def has_mean_network(model: nn.Module) -> bool:
    """Return true if there is a network without the noise, at degree 0."""
    return not any(layer.replaces for layer in noise_layers(model))


@contextlib.contextmanager
def at_scale(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply the degree of stochasticity of every noise layer by `factor` in the block; 0 turns noise off.

    Raises `UsageError` for noise that has no degree, unless it stays as it is.
    """
    layers = noise_layers(model)
    if factor != 1 and not has_mean_network(model):
        raise UsageError(
            "the noise of this network has no degree: a draw replaces a value, and no network is left without it",
            "leave the noise as trained",
        )
    before = [layer.scale for layer in layers]
    kinds = [(part, part.noise) for part in model.modules() if isinstance(part, Classifier)]
    try:
        for layer in layers:
            layer.scale *= factor
        for part, kind in kinds:
            part.noise = "none" if layers and factor == 0 else kind
        yield
    finally:
        for part, kind in kinds:
            part.noise = kind
        for layer, scale in zip(layers, before, strict=True):
            layer.scale = scale


def install(model: Classifier, site: str, layers: str, make: Callable[[Site], nn.Module]) -> Classifier:
    """Add a noise layer at every `site` whose module name matches the pattern `layers`; changes `model`.

    Attention of torch and torchvision is opened, so that its projections are layers; weights keep their names.
    `make` returns the layer of a site. Raises `InputError` for a network that has noise already, or no such site.
    """
    if noise_layers(model):
        raise InputError("the network is already stochastic", "start from the network without noise")
    places = sites(model, site, layers)
    if not places:
        kinds = [name for name in SITES if sites(model, name)]
        hint = f"the network has: {', '.join(kinds)}" if kinds else "it has no convolutions and no linear layers"
        raise InputError(f"no layer of `{model.arch}` matches site `{site}`, layers `{layers}`", hint)
    with torch.random.fork_rng():
        noises = [make(place) for place in places]
    model.network = opened(model.network)
    for place, noise in zip(places, noises, strict=True):
        layer = model.network.get_submodule(place.name)
        noisy = Noisy(layer, noise.train(model.training), place.place).to(model.mean.device)
        noisy.training = model.training
        parent, _, last = place.name.rpartition(".")
        setattr(model.network.get_submodule(parent), last, noisy)
    return model


def stored_names(network: nn.Module) -> dict[str, str]:
    """Map names of the state dict to names in files, where weights of noisy layers have the plain network's names."""
    prefixes = [name for name, module in network.named_modules() if isinstance(module, Noisy)]
    names = {}
    for name in network.state_dict():
        inside = next((p for p in prefixes if name.startswith(f"{p}.layer.")), None)
        names[name] = name if inside is None else inside + name[len(inside) + len(".layer") :]
    return names


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return the optimizer's groups: the weights, and the parameters of the noise, without weight decay."""
    noise = [p for layer in noise_layers(model) for p in layer.noise.parameters() if p.requires_grad]
    noise_ids = {id(p) for p in noise}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in noise_ids]
    return [{"params": weights}, *([{"params": noise, "weight_decay": 0.0}] if noise else [])]


def penalty(model: nn.Module) -> Tensor:
    """Return the noise layers' term of the loss, a scalar: the sum of `noise.penalty(layer)`, where it exists."""
    terms = [noisy.noise.penalty(noisy.layer) for noisy in noise_layers(model) if hasattr(noisy.noise, "penalty")]  # type: ignore[operator]
    return sum(terms, torch.zeros(()))


def calibrate(model: Classifier, batches: Sequence[Tensor], report: Report = unreported) -> None:
    """Measure the noise layers' statistics without noise, then those of batch norms, and running ones, with noise.

    Noise increases the variance at batch norms, by a factor of 1 + beta^2 for adaptive noise. `batches` are clean
    images (N, 3, H, W). Modules with `running` statistics have a `rate`, the weight of a new batch, 0 if they are
    fixed. Draws use torch's global generator, whose state is restored. `report` counts batches, twice each.
    """
    parts = [part for layer in noise_layers(model) for part in layer.noise.modules()]
    measuring = [(part, "rate") for part in parts if hasattr(part, "rate") and hasattr(part, "running")]
    moving = [(part, "rate") for part, _ in measuring if part.rate]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    with torch.random.fork_rng():
        with at_scale(model, 0.0) if has_mean_network(model) else contextlib.nullcontext():
            _average(model, batches, measuring, report)
        _average(model, batches, [*moving, *((norm, "momentum") for norm in norms)], report)


def _average(
    model: Classifier,
    batches: Sequence[Tensor],
    measuring: Sequence[tuple[nn.Module, str]],
    report: Report,
) -> None:
    """Run one pass in which statistics become plain means over the batches; each comes with the name of its rate."""
    before = [getattr(module, rate) for module, rate in measuring]
    with evaluating(model), torch.no_grad():
        try:
            for module in (*noise_layers(model), *(module for module, _ in measuring)):
                module.training = True
            for k, batch in enumerate(batches):
                for module, rate in measuring:
                    setattr(module, rate, 1 / (k + 1))
                model(batch)
                report(1)
        finally:
            for (module, rate), value in zip(measuring, before, strict=True):
                setattr(module, rate, value)
