"""A network that takes pixels in [0, 1] and has named classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.engine.io.images import LUMA, RGB, Preparation, channels_text
from stochx.engine.network.wrappers import unwrapped
from stochx.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

log = logging.getLogger("stochx")

WIDEST = 10.0  # std of pixels in [0, 1], far above any; that of pixels from 0 to 255 is about 60

Noise = Literal["none", "sample", "forward"]


class Classifier(nn.Module):
    """A network with its normalisation: (N, C, H, W) in [0, 1] -> (N, K) logits.

    `network` gets (x - mean) / std. Its `channels` are the given ones, else as many as `mean` has values, else those of
    its first convolution, else three; `preparation` makes images of that many. `noise` says how forward passes differ:
    not at all (`none`), by an independent draw per sample (`sample`), or by one draw per batch (`forward`). `arch` is
    the spec that rebuilds the network, `noises` the spec of its noise layers; `origin` describes where it comes from.
    `guessed_classes` is true where the names of `classes` were concluded from their number. `multilabel` is true where
    each class is present or not by itself, with the sigmoid of its logit. `trained` holds the fingerprints of the
    images that it was trained on, None where they are not known.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        preparation: Preparation,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        arch: str = "",
        noise: Noise = "none",
        noises: str = "",
        origin: Mapping[str, str] | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.network = unwrapped(network)
        self.classes = tuple(classes)
        self.guessed_classes = False
        self.multilabel = False
        self.trained: Tensor | None = None
        several = max(len(mean), len(std))
        count = channels or (several if several > 1 else None) or first_channels(self.network) or RGB
        self._preparation = replace(preparation, channels=count)
        self.arch = arch
        self.noise: Noise = noise
        self.noises = noises
        self.origin = dict(origin or {})
        for name in ("mean", "std"):  # on the CPU even under a `meta` device
            self.register_buffer(name, torch.zeros(1, device="cpu"))
        self.normalise_by(mean, std)

    @property
    def preparation(self) -> Preparation:
        """How images are prepared."""
        return self._preparation

    @preparation.setter
    def preparation(self, preparation: Preparation) -> None:
        self._preparation = replace(preparation, channels=self.channels)

    @property
    def channels(self) -> int:
        """Channels of the input images."""
        return self.preparation.channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input images."""
        return self.preparation.shape

    def blank(self) -> Tensor:
        """Return a black input image (1, C, H, W), in the type and on the device of the network."""
        return self.mean.new_zeros(1, *self.input_shape)

    def prepare_by(self, preparation: Preparation) -> None:
        """Set how images are prepared; fingerprints of training images that were prepared otherwise are dropped."""
        before, self.preparation = self.preparation, preparation
        if self.trained is not None and self.preparation != before:
            log.warning("images that the network was trained on are not recognised when they are prepared otherwise")
            self.trained = None

    def take_channels(self, count: int) -> None:
        """Set the number of channels, and the normalisation that fits them."""
        mean, std = (values.flatten().tolist() for values in (self.mean, self.std))
        self._preparation = replace(self.preparation, channels=count)
        self.normalise_by(*fitting(mean, std, count))

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the normalisation: a number for each channel, or one for all. Raises `InputError` for std <= 0, for
        values of 0 to 255, and for another number of channels.
        """
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, self.channels):
                raise InputError(
                    f"{len(values)} values of `{name}` for a network that takes {channels_text(self.channels)}",
                    "give one for each channel, or one for all",
                )
        self.mean, self.std = (
            torch.tensor(tuple(map(float, values)), dtype=torch.float32, device=self.mean.device)
            .expand(self.channels)
            .reshape(1, -1, 1, 1)
            .clone()
            for values in (mean, std)
        )
        if not (self.std > 0).all():
            raise InputError("standard deviations must be positive", "check `--std`")
        if not (self.mean <= 1).all() or not (self.std <= WIDEST).all():
            raise InputError("the mean and std of the normalisation are not in units of [0, 1]", "divide them by 255")

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise pixels for `network`."""
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of pixels in [0, 1]."""
        out = self.network(self.normalise(x))
        logits: Tensor = out.logits if isinstance(out, tuple) and hasattr(out, "logits") else out  # beside other heads
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last layer with weights: (N, D), or (N, D, H, W) before a 1x1 convolution."""
        layer_inputs: list[Tensor] = []
        last = [m for m in self.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
        handle = last.register_forward_pre_hook(lambda _, inputs: layer_inputs.append(inputs[0]))
        try:
            self(x)
        finally:
            handle.remove()
        return layer_inputs[-1]


def probabilities(model: object, logits: Tensor) -> Tensor:
    """Return the probabilities (..., K) of logits: of each class by itself for a multi-label network, else of one."""
    independent = isinstance(model, Classifier) and model.multilabel
    return logits.sigmoid() if independent else logits.softmax(-1)


def first_channels(network: nn.Module) -> int | None:
    """Return the channels that the first convolution of images takes; None without one."""
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), None)


def fitting(mean: Sequence[float], std: Sequence[float], channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Return a normalisation in a number of channels where another one says the same, else as it is.

    Gray pixels g, normalised in RGB and weighted by w, are sum w_c (g - mean_c) / std_c, which is (g - m) / s with
    1 / s = sum w_c / std_c and m = s sum w_c mean_c / std_c.
    """
    if len(mean) in (1, channels) and len(std) in (1, channels):
        return mean, std
    if len({*mean}) == len({*std}) == 1:
        return mean[:1], std[:1]
    if channels != 1 or len(mean) != RGB or len(std) != RGB:
        return mean, std
    s = 1 / sum(w / c for w, c in zip(LUMA, std, strict=True))
    return (s * math.fsum(w * m / c for w, m, c in zip(LUMA, mean, std, strict=True)),), (s,)


def borrowed(mean: Sequence[float], std: Sequence[float], channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Return the usual normalisation of RGB for another number of channels: none but for gray images."""
    return fitting(mean, std, channels) if channels in (1, RGB) else ((0.0,), (1.0,))


def measure_noise(model: nn.Module, x: Tensor) -> Noise:
    """Detect noise in the forward pass: compare equal images of one batch, and two passes of x (1, C, H, W).

    Modules with few different draws, which may agree by chance, declare the kind as `drawn_per`.
    """
    for module in model.modules() if isinstance(model, nn.Module) else ():
        declared: Noise | None = getattr(module, "drawn_per", None)
        if declared is not None:
            return declared
    twins = x.repeat(2, 1, 1, 1)
    with torch.inference_mode(), torch.random.fork_rng():
        first, second = model(twins), model(twins)
    if not torch.allclose(first[0], first[1], rtol=1e-4, atol=1e-5, equal_nan=True):
        return "sample"
    return "none" if torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True) else "forward"
