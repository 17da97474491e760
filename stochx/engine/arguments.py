"""Arguments of methods, attacks and metrics: checked once, and converted to what formulas take."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from stochx.engine.device import is_out_of_memory
from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier, Noise, measure_noise, probabilities
from stochx.engine.network.wrappers import unwrapped
from stochx.engine.seeds import Key, seeded
from stochx.errors import InputError, UsageError, first_line

Classes = int | Sequence[int] | Tensor  # of each image, or one for all
Keys = Key | Sequence[Key]


DRAWS = 16  # of a stochastic network, which its predictions are the mean of
ROUNDING = 1e-5  # by which pixels may leave [0, 1]
NORMALISED = 32.0  # pixels that some mean and std have normalised stay below; 0 to 255 do not
BATCH_NORM, DROPOUT = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd

R = TypeVar("R")


@dataclass(frozen=True)
class Arguments:
    """A network and images as formulas take them: x (N, C, H, W), detached, in the network's type.

    `classes` is the number of logits, `keys` has one key an image. `alone` is true where a single image (C, H, W) was
    given.
    """

    model: nn.Module
    x: Tensor
    classes: int
    keys: Sequence[Key]
    alone: bool

    @property
    def noise(self) -> Noise:
        """How forward passes differ."""
        return self.model.noise if isinstance(self.model, Classifier) else measure_noise(self.model, self.x[:1])

    def class_indices(self, given: Classes | None, name: str = "target") -> Tensor:
        """Return class indices (N,): as given, or what the network predicts.

        Raises `InputError` for what is no class index, or not one an image.
        """
        if given is None:
            return self.predictions()
        indices = _whole_numbers(given, name, self.classes)
        if indices.numel() not in (1, len(self.x)):
            raise InputError(
                f"`{name}` has {indices.numel()} classes for {len(self.x)} images", "give one for all, or one each"
            )
        outside = indices[(indices < 0) | (indices >= self.classes)]
        if len(outside):
            raise InputError(
                f"`{name}` holds class {int(outside[0])}, the model has {self.classes}", f"use 0 to {self.classes - 1}"
            )
        return indices.to(self.x.device, torch.long).expand(len(self.x)).clone()

    def predictions(self) -> Tensor:
        """Return the classes (N,) of the mean probabilities; of a stochastic network over some draws."""
        with seeded(0, "predictions"):
            draws = DRAWS if self.noise != "none" else 1
            mean = torch.stack([probabilities(self.model, logits(self.model, self.x)) for _ in range(draws)]).mean(0)
        return mean.argmax(1)


def are_ready(x: object, classes: object) -> bool:
    """Return true for images (N, C, H, W) and class indices (N,), as formulas hand them on to each other."""
    return (
        isinstance(x, Tensor)
        and isinstance(classes, Tensor)
        and x.dim() == 4
        and classes.shape == x.shape[:1]
        and classes.dtype == torch.long
    )


def check_arguments(model: object, x: object, keys: Keys | None = None, *, pixels: bool) -> Arguments:
    """Return the checked arguments; raises `InputError` or `UsageError` for what cannot be used.

    With `pixels` values have to lie in [0, 1] for any network, else only for a `Classifier`, which normalises them.
    """
    network = check_model(model)
    images, alone = check_images(network, x, pixels=pixels or isinstance(network, Classifier))
    return Arguments(network, images, _class_count(network, images[:1]), check_keys(keys, len(images), alone), alone)


def check_model(model: object) -> nn.Module:
    """Return the network without wrappers; raises `UsageError` for one in train mode, and for anything else."""
    if isinstance(model, str):
        raise UsageError(f"`model` is the text `{model}`", "load it with `stochx.load_model`")
    if not callable(model) or isinstance(model, type | Tensor):
        raise UsageError(f"`model` is a {type(model).__name__}, not a network", "give a `torch.nn.Module`")
    network: Any = unwrapped(model)
    if not isinstance(network, nn.Module):
        return network  # type: ignore[no-any-return]  # a function of images, which is used as it is
    if any(m.training and isinstance(m, BATCH_NORM) for m in network.modules()) or (
        network.training and any(m.training and isinstance(m, DROPOUT) for m in network.modules())
    ):
        raise UsageError("the model is in train mode", "call `model.eval()` first")
    if any(t.is_inference() for t in (*network.parameters(), *network.buffers())):
        raise InputError(
            "the model was made in `torch.inference_mode`, so that it has no gradients",
            "create it outside of the block",
        )
    return network


def like_of(model: object) -> Tensor | None:
    """Return a floating-point tensor of the network, which has its type and device; None if it has none."""
    if not isinstance(model, nn.Module):
        return None
    return next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None)


def check_images(model: nn.Module, x: object, *, pixels: bool) -> tuple[Tensor, bool]:
    """Return images (N, C, H, W) in the type of the network, and true if a single one was given."""
    if not isinstance(x, Tensor):
        raise UsageError(
            f"`x` is a {type(x).__name__}, not a tensor",
            "`stochx.read_image` reads an image file, `torch.as_tensor` converts arrays",
        )
    if not x.is_floating_point():
        raise InputError(
            f"`x` is {_short(x.dtype)}, not floats in [0, 1]: divide by 255", "`x / 255` is of the right type, too"
        )
    if x.dim() not in (3, 4):
        raise InputError(f"`x` is {tuple(x.shape)}", "give images (N, C, H, W), or one image (C, H, W)")
    if not x.numel():
        raise InputError(f"`x` is {tuple(x.shape)}, without an image", "give at least one image")
    like = like_of(model)
    if like is not None and like.device != x.device:
        raise InputError(f"`x` is on `{x.device}`, the model on `{like.device}`", f'write `x.to("{like.device}")`')
    plain = x.detach()
    plain = plain.clone() if plain.is_inference() else plain
    plain = plain if like is None else plain.to(like.dtype)
    _check_range(plain, pixels, isinstance(model, Classifier))
    return (plain[None], True) if x.dim() == 3 else (plain, False)


def _check_range(x: Tensor, strict: bool, normalises: bool) -> None:
    low, high = (float(end) for end in x.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("`x` holds NaN or infinity", "check how the images were made")
    if not strict and max(-low, high) <= NORMALISED:
        return
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return
    spans = f"`x` spans {low:.4g} to {high:.4g}"
    if high > NORMALISED and low >= -ROUNDING:
        raise InputError(f"{spans}, not 0 to 1: divide by 255", "`stochx.read_image` reads files as pixels in [0, 1]")
    if normalises:
        raise InputError(f"{spans}, not 0 to 1", "give pixels as they are: the model normalises them itself")
    raise InputError(
        f"{spans}, not 0 to 1", "give pixels, and the model in a `stochx.models.Classifier` with its mean and std"
    )


def _class_count(model: nn.Module, x: Tensor) -> int:
    """Return the number of logits for an image x (1, C, H, W); raises `InputError` for another output."""
    try:
        with torch.random.fork_rng(), torch.no_grad():
            out = model(x)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        last = x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
        raise InputError(
            f"the model cannot take images {tuple(x.shape[1:])}: {first_line(error)}",
            "move the channels: `x.movedim(-1, -3)`" if last else "check their channels and size",
        ) from error
    if not isinstance(out, Tensor):
        raise InputError(f"the model returns a {type(out).__name__}", "wrap it in a module that returns logits (N, K)")
    if out.dim() != 2 or len(out) != 1 or not out.shape[1]:
        raise InputError(f"the model returns {tuple(out.shape)} for one image", "it must return logits (N, K)")
    channels = model.mean.shape[1] if isinstance(model, Classifier) else x.shape[1]
    if channels > 1 == x.shape[1]:  # the normalisation repeats a single channel, but gradients of it have no meaning
        raise InputError(
            f"`x` has 1 channel, the model takes {channels}", f"repeat it: `x.repeat_interleave({channels}, -3)`"
        )
    return out.shape[1]


def _whole_numbers(given: Classes, name: str, classes: int) -> Tensor:
    """Return class indices as a tensor (n,)."""
    try:
        numbers = torch.as_tensor(given if isinstance(given, Tensor | np.ndarray) else _listed(given))
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"`{name}` is `{given!r:.60}`", "give a class index, or one for each image") from None
    if not numbers.numel():
        raise InputError(f"`{name}` is empty", "give a class index, or one for each image")
    if numbers.dim() == 2 and numbers.shape[1] == classes and classes > 1:
        raise InputError(f"`{name}` is {tuple(numbers.shape)}, one-hot", f"give class indices: `{name}.argmax(1)`")
    if numbers.dim() > 1:
        raise InputError(f"`{name}` is {tuple(numbers.shape)}", "give one class index for each image, (N,)")
    if numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex():
        raise InputError(f"`{name}` is {_short(numbers.dtype)}", "class indices are whole numbers: `.long()`")
    return numbers.reshape(-1)


def _listed(given: object) -> object:
    """Return whole numbers of any kind as ints, for one or in a sequence."""
    if isinstance(given, bool):
        return given
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [_listed(one) for one in given]
    return operator.index(given)  # type: ignore[arg-type]  # raises TypeError for anything else


def check_keys(keys: Keys | None, count: int, alone: bool) -> Sequence[Key]:
    """Return one key an image: as given, or its place."""
    if keys is None:
        return range(count)
    if isinstance(keys, str | int):
        if alone:
            return [keys]
        raise UsageError(f"`keys` is `{keys}`", "give one key for each image, such as their file names")
    if len(keys) != count:
        raise UsageError(f"there are {len(keys)} `keys` for {count} images", "give one for each image")
    return keys


def first_of(result: R) -> R:
    """Return the part of a dataclass of values (N, ...) that is of its only image."""
    assert is_dataclass(result)
    parts: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Tensor):
            parts[field.name] = value[0]
        elif is_dataclass(value):
            parts[field.name] = first_of(value)
    return replace(result, **parts)  # type: ignore[type-var]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
