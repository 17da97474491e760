"""Other last layers for a network: one readout with two classes for each of several images, on the same features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stochx.engine.device import as_float64, full_precision
from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.ensemble import ensemble_of
from stochx.engine.network.sites import LAYERS
from stochx.engine.network.stochastic import Noisy

STEPS = 200  # of L-BFGS


@dataclass(frozen=True)
class LastLayer:
    """The name of a network's last layer, and the number of its features."""

    name: str
    width: int


def last_linear(model: Classifier, x: Tensor) -> LastLayer | None:
    """Return the last layer that runs on x (N, C, H, W), if it is linear, on features (N, D), and runs once.

    A randomised ensemble has none: no layer of it sees every image.
    """
    if ensemble_of(model) is not None:
        return None
    ran: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, value: Any) -> None:
        ran.append((name, tuple(value.shape)))

    layers = {name: module for name, module in model.network.named_modules() if name and isinstance(module, LAYERS)}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, module in layers.items()
    ]
    try:
        with torch.inference_mode(), torch.random.fork_rng(), full_precision():
            model(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _ in ran]
    if not ran or not isinstance(layers[names[-1]], nn.Linear) or names.count(names[-1]) > 1 or len(ran[-1][1]) != 2:
        return None
    return LastLayer(_outermost(model, names[-1]), ran[-1][1][1])


def _outermost(model: Classifier, name: str) -> str:
    """Return the layer, or the noise layer around it, whose noise on its weight or output fits no other layer."""
    parent, _, last = name.rpartition(".")
    noisy = model.network.get_submodule(parent)
    return parent if last == "layer" and isinstance(noisy, Noisy) and noisy.place != "input" else name


def at_last_layer(model: Classifier, layer: LastLayer, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what enters the last layer (N, P, D) and what leaves it (N, P, K), in float64, for P batches of N images.

    Each batch is a forward pass of its own, with its own draw of the network's noise.
    """
    passed: list[tuple[Tensor, Tensor]] = []
    parts: list[tuple[Tensor, Tensor]] = []
    module = model.network.get_submodule(layer.name)
    handle = module.register_forward_hook(lambda _, inputs, out: passed.append((inputs[0].detach(), out.detach())))
    try:
        with full_precision():
            for x in points:
                passed.clear()
                logits(model, x)
                both = zip(*passed, strict=True)
                # passes before measured the memory
                features, out = (as_float64(torch.cat(part)[-len(x) :]) for part in both)
                parts.append((features, out))
    finally:
        handle.remove()
    return torch.stack([part[0] for part in parts], 1), torch.stack([part[1] for part in parts], 1)


@dataclass(frozen=True)
class Readout:
    """Scores w . features + b of N images, w (N, D) and b (N,) in float64; above 0 is class 1."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return the scores (N, P) of features (N, P, D)."""
        return torch.einsum("npd,nd->np", features, self.weight) + self.bias[:, None]

    def shifted(self, by: Tensor) -> Readout:
        """Return the readout whose scores are larger by `by` (N,)."""
        return Readout(self.weight, self.bias + by)

    def scaled(self, by: Tensor) -> Readout:
        """Return the readout whose scores are `by` (N,) times as large."""
        return Readout(self.weight * by[:, None], self.bias * by)


def fit_readout(features: Tensor, positive: Tensor) -> Readout:
    """Fit a logistic regression without penalty for each image, from features (N, P, D); `positive` (P,) is class 1.

    Both classes weigh the same, however many points they have.
    """
    centre = features.mean(1, keepdim=True)
    spread = (features - centre).square().mean((1, 2)).sqrt().clamp(min=torch.finfo(features.dtype).tiny)
    points = (features - centre) / spread[:, None, None]
    sign, share = 2.0 * positive - 1, torch.where(positive, 1 / positive.sum(), 1 / (~positive).sum()).to(points)
    weight = torch.zeros_like(points[:, 0]).requires_grad_()
    bias = torch.zeros_like(weight[:, 0]).requires_grad_()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        margins = sign * Readout(weight, bias)(points)
        total = -(share * nn.functional.logsigmoid(margins)).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    found = Readout(weight.detach() / spread[:, None], bias.detach())
    return found.shifted(-torch.einsum("nd,nd->n", found.weight, centre[:, 0]))


class Readouts(nn.Module):
    """The last layer: features (B, D) -> logits (B, 2), by the readout of the image that `image` (B,) names."""

    weight: Tensor
    bias: Tensor
    image: Tensor

    def __init__(self, readout: Readout, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", readout.weight.to(like))
        self.register_buffer("bias", readout.bias.to(like))

    def forward(self, features: Tensor) -> Tensor:
        score = (features * self.weight[self.image]).sum(1) + self.bias[self.image]
        return torch.stack([-score / 2, score / 2], 1)


class _Planted(nn.Module):
    """A network whose last layer is a `Readouts`; it reads a point by the readout of the image nearest to it."""

    images: Tensor

    def __init__(self, network: nn.Module, last: Readouts, images: Tensor) -> None:
        super().__init__()
        self.network, self.last = network, last
        self.register_buffer("images", images.flatten(1))

    def forward(self, z: Tensor) -> Tensor:
        self.last.image = torch.cdist(z.detach().flatten(1), self.images).argmin(1)
        out: Tensor = self.network(z)
        return out


@contextmanager
def reading_out(model: Classifier, layer: LastLayer, readout: Readout, x: Tensor) -> Iterator[None]:
    """In the block `model` has two classes: the readouts of x (N, C, H, W) replace its last layer, and nothing else."""
    network, classes, parent, name = model.network, model.classes, *_place(model, layer)
    replaced = getattr(parent, name)
    last = Readouts(readout, x).train(replaced.training)
    try:
        setattr(parent, name, last)
        model.network = _Planted(network, last, model.normalise(x)).train(network.training)
        model.classes = ("inner", "planted")
        yield
    finally:
        setattr(parent, name, replaced)
        model.network, model.classes = network, classes


def _place(model: Classifier, layer: LastLayer) -> tuple[nn.Module, str]:
    parent, _, name = layer.name.rpartition(".")
    return model.network.get_submodule(parent), name
