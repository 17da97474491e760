"""Noise inside a network: where it sits, how strong it is, and how its statistics are measured.

A noise layer is a module that returns what is added to a value, a deviation with mean zero: `z + scale * noise(z)`. So
the degree of stochasticity means the same for all of them: 0 is the network without noise, 2 doubles every deviation.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from stochx.engine.network.classifier import Classifier
from stochx.errors import InputError, UsageError

Place = Literal["output", "input", "weight"]
LAYERS = (nn.Conv2d, nn.Linear)


def normal(z: Tensor, share: str) -> Tensor:
    """Standard normal noise shaped as z (N, ...), see `drawn`."""
    return drawn(torch.randn, z, share)


def drawn(source: Callable[..., Tensor], z: Tensor, share: str) -> Tensor:
    """`source(shape)` shaped as z (N, ...): `none` shares no draw, `batch` gives all images of one the same.

    Images are drawn pixel by pixel, channels last, whatever layout z has: draws do not depend on it, and torch's
    generator is eight times faster on a CPU where it fills memory in order.
    """
    count = len(z) if share == "none" else 1
    last = z.dim() == 4
    shape = (count, *z.shape[2:], z.shape[1]) if last else (count, *z.shape[1:])
    found = source(shape, dtype=z.dtype, device=z.device)
    return (found.permute(0, 3, 1, 2) if last else found).expand_as(z)


@dataclass(frozen=True)
class Site:
    """A place for a noise layer: a module, and whether its output, its input or its weight gets the noise.

    `shape` is that of the value: (C, H, W) or (D,) of one image, or the weight's own. `index` counts the sites from 0.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    index: int


class Noisy(nn.Module):
    """A layer, with noise on what it gives, what it takes or its weight; `scale` is the degree of stochasticity."""

    def __init__(self, layer: nn.Module, noise: nn.Module, place: Place) -> None:
        super().__init__()
        self.layer, self.noise, self.place, self.scale = layer, noise, place, 1.0

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self.layer
        out: Tensor
        if self.place == "output":
            out = self._shaken(layer(x))
        elif self.place == "input":
            out = layer(self._shaken(x))
        elif type(layer).forward is nn.Conv2d.forward:
            out = layer._conv_forward(x, self._shaken(layer.weight), layer.bias)
        elif type(layer).forward is nn.Linear.forward:
            out = F.linear(x, self._shaken(layer.weight), layer.bias)
        else:  # an own kind of layer, say one that standardises its weight; this call cannot be traced
            out = functional_call(layer, {"weight": self._shaken(layer.weight)}, (x,))
        return out

    def _shaken(self, z: Tensor) -> Tensor:
        if self.scale == 0 and not self.training:  # in training the noise still measures what passes
            return z
        return torch.add(z, self.noise(z), alpha=self.scale)


def noise_layers(model: nn.Module) -> list[Noisy]:
    """The layers with noise, in order."""
    return [module for module in model.modules() if isinstance(module, Noisy)]


@contextlib.contextmanager
def at_scale(model: nn.Module, factor: float) -> Iterator[None]:
    """Inside, the degree of stochasticity of every noise layer is multiplied by `factor`; at 0 there is no noise."""
    layers = noise_layers(model)
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
    """Put a noise layer at every `site` of the network whose name fits the pattern `layers`; changes `model`.

    `make` gives the layer of a site. Raises `InputError` for a network that has noise already, or no such place.
    """
    if noise_layers(model):
        raise InputError("the network is stochastic already", "start from the teacher that it was made of")
    found = sites(model, site, layers)
    if not found:
        there = [name for name in SITES if sites(model, name)]
        hint = f"the network has: {', '.join(there)}" if there else "it has no convolution and no linear layer"
        raise InputError(f"no layer of `{model.arch}` fits site `{site}`, layers `{layers}`", hint)
    with torch.random.fork_rng():
        noises = [make(one) for one in found]
    for one, noise in zip(found, noises, strict=True):
        layer = model.network.get_submodule(one.name)
        noisy = Noisy(layer, noise.train(model.training), one.place).to(model.mean.device)
        noisy.training = model.training
        parent, _, last = one.name.rpartition(".")
        setattr(model.network.get_submodule(parent), last, noisy)
    return model


def sites(model: Classifier, site: str, layers: str = "*") -> list[Site]:
    """The places of a kind in the order in which an image meets them, without those that `layers` leaves out.

    `before-bn`: outputs of convolutions and linear layers but the last, the logits; `after-bn`: outputs of batch norms;
    `block`: outputs of the smallest own modules with two convolutions or more; `stem-and-blocks`: of the first norm
    too; `conv-input`: inputs of convolutions; `layer-input`: of linear layers too; `input`: of the first layer;
    `penultimate`: of the last; `weight`: all weights.
    Patterns are shell-like and joined by `+`.
    """
    if site not in SITES:
        raise UsageError(f"unknown site `{site}`", "choose from: " + ", ".join(SITES))
    place, choose = SITES[site]
    chosen = [
        (name, shape)
        for name, shape in choose(model.network, _passage(model, place))
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in layers.split("+"))
    ]
    return [Site(name, place, shape, index) for index, (name, shape) in enumerate(chosen)]


Met = list[tuple[str, tuple[int, ...]]]  # modules by name, in the order of the forward, with a shape each


def _passage(model: Classifier, place: Place) -> Met:
    """Every module that an image meets in eval mode, once, with the shape of one image's value at `place`."""
    met: dict[str, tuple[int, ...]] = {}
    handles = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
            value = {"output": output, "input": inputs[0] if inputs else None}.get(place)
            if place == "weight":
                met.setdefault(name, tuple(getattr(module, "weight", torch.zeros(0)).shape))
            elif isinstance(value, Tensor):
                met.setdefault(name, tuple(value.shape[1:]))

        return hook

    try:
        handles = [m.register_forward_hook(note(name)) for name, m in model.network.named_modules() if name]
        with evaluating(model), torch.inference_mode(), torch.random.fork_rng():
            model(model.mean.new_zeros(1, 3, model.input_size, model.input_size))
    finally:
        for handle in handles:
            handle.remove()
    return list(met.items())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; every module's own mode returns after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _layers(network: nn.Module, met: Met) -> Met:
    return [(name, shape) for name, shape in met if isinstance(network.get_submodule(name), LAYERS)]


def _of(kind: type[nn.Module]) -> Callable[[nn.Module, Met], Met]:
    return lambda network, met: [one for one in met if isinstance(network.get_submodule(one[0]), kind)]


def _blocks(network: nn.Module, met: Met) -> Met:
    """The smallest modules that are no container of torch's and hold at least two convolutions."""

    def is_block(name: str) -> bool:
        module = network.get_submodule(name)
        own = not type(module).__module__.startswith("torch.nn")
        return own and sum(isinstance(m, nn.Conv2d) for m in module.modules()) > 1

    found = [one for one in met if is_block(one[0])]
    return [one for one in found if not any(other.startswith(f"{one[0]}.") for other, _ in found)]


SITES: dict[str, tuple[Place, Callable[[nn.Module, Met], Met]]] = {
    "before-bn": ("output", lambda network, met: _layers(network, met)[:-1]),
    "after-bn": ("output", _of(nn.BatchNorm2d)),
    "block": ("output", _blocks),
    "stem-and-blocks": ("output", lambda network, met: _of(nn.BatchNorm2d)(network, met)[:1] + _blocks(network, met)),
    "input": ("input", lambda network, met: _layers(network, met)[:1]),
    "conv-input": ("input", _of(nn.Conv2d)),
    "layer-input": ("input", _layers),
    "penultimate": ("input", lambda network, met: _layers(network, met)[-1:]),
    "weight": ("weight", _layers),
}


def stored_names(network: nn.Module) -> dict[str, str]:
    """Names of the state dict -> names in files, where a noisy layer's weights keep the plain network's names."""
    prefixes = [name for name, module in network.named_modules() if isinstance(module, Noisy)]
    names = {}
    for name in network.state_dict():
        inside = next((p for p in prefixes if name.startswith(f"{p}.layer.")), None)
        names[name] = name if inside is None else inside + name[len(inside) + len(".layer") :]
    return names


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """What an optimizer is given: the weights, and the parameters of the noise, which never decay."""
    noise = [p for layer in noise_layers(model) for p in layer.noise.parameters() if p.requires_grad]
    known = {id(p) for p in noise}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    return [{"params": weights}, *([{"params": noise, "weight_decay": 0.0}] if noise else [])]


def penalty(model: nn.Module) -> Tensor:
    """The term of the loss that noise layers ask for, a scalar: the sum of `noise.penalty(layer)`, where it exists."""
    asked = [one.noise.penalty(one.layer) for one in noise_layers(model) if hasattr(one.noise, "penalty")]  # type: ignore[operator]
    return sum(asked, torch.zeros(()))


def calibrate(model: Classifier, batches: Sequence[Tensor]) -> None:
    """Measure the noise layers' statistics without noise, then those of the batch norms and running ones with it.

    Noise widens what a batch norm sees: by 1 + beta^2 in variance, for adaptive noise. `batches` are clean images
    (N, 3, H, W). Modules with `running` statistics have a `rate`, the share of a new batch in them, 0 where they stay.
    Draws follow torch's global generator, which stays where it was.
    """
    parts = [part for layer in noise_layers(model) for part in layer.noise.modules()]
    measuring = [(part, "rate") for part in parts if hasattr(part, "rate") and hasattr(part, "running")]
    moving = [(part, "rate") for part, _ in measuring if part.rate]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    with torch.random.fork_rng():
        with at_scale(model, 0.0):
            _average(model, batches, measuring)
        _average(model, batches, [*moving, *((norm, "momentum") for norm in norms)])


def _average(model: Classifier, batches: Sequence[Tensor], measuring: Sequence[tuple[nn.Module, str]]) -> None:
    """One pass in which statistics become plain means over the batches; each comes with the name of its rate."""
    before = [getattr(module, rate) for module, rate in measuring]
    with evaluating(model), torch.no_grad():
        try:
            for module in (*noise_layers(model), *(module for module, _ in measuring)):
                module.training = True
            for k, batch in enumerate(batches):
                for module, rate in measuring:
                    setattr(module, rate, 1 / (k + 1))
                model(batch)
        finally:
            for (module, rate), value in zip(measuring, before, strict=True):
                setattr(module, rate, value)
