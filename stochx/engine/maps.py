"""Explanations, tensors and arrays as maps, in the form that metrics and figures take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stochx.errors import InputError, UsageError


class HasMap(Protocol):
    """An explanation."""

    @property
    def map(self) -> Tensor: ...


Maps = Tensor | np.ndarray | HasMap
Explainer = Callable[[nn.Module, Tensor, Tensor], Tensor | HasMap]  # a method, or a function that returns maps


def maps_of(given: Maps, x: Tensor | None = None, alone: bool = False) -> tuple[Tensor, bool]:
    """Return maps (N, C, H, W), and true if it is that of a single image.

    (H, W) is one map; (N, H, W) are several, or the channels of one where an explanation or the image is `alone`. With
    images x (N, C, H, W) there is one for each, of their size and type. Raises `StochxError` for anything else.
    """
    values = getattr(given, "map", given)
    if not isinstance(values, Tensor | np.ndarray):
        raise UsageError(f"`map` is a {type(values).__name__}", "give an explanation, a tensor or an array")
    maps = torch.as_tensor(values).detach()
    maps, shape = maps.clone() if maps.is_inference() else maps, tuple(maps.shape)
    alone = len(shape) == 2 or (len(shape) == 3 and (alone or (x is None and values is not given)))
    if len(shape) == 2:
        maps = maps[None, None]
    elif len(shape) == 3:
        maps = maps[None] if alone else maps[:, None]
    if maps.dim() != 4 or not maps.numel():
        raise InputError(f"`map` is {shape}", "give (N, C, H, W), (N, H, W) or (H, W)")
    if x is not None:
        count, channels, *sides = x.shape
        if tuple(maps.shape) not in {(count, channels, *sides), (count, 1, *sides)}:
            raise InputError(
                f"`map` is {shape} for images {tuple(x.shape)}", "give one map for each image, of its size"
            )
        maps = maps.to(x)
    maps = maps if maps.is_floating_point() else maps.float()
    if not bool(maps.isfinite().all()):
        raise InputError("`map` holds NaN or infinity", "leave these images out")
    return maps, alone


def masks_of(given: Tensor | np.ndarray | None, maps: Tensor) -> Tensor | None:
    """Return masks (N, H, W) of the objects of maps (N, C, H, W); raises `InputError` for another shape."""
    if given is None:
        return None
    mask = torch.as_tensor(given)
    wide = mask[None] if mask.dim() == 2 else mask
    if wide.shape != maps[:, 0].shape:
        raise InputError(
            f"`mask` is {tuple(mask.shape)} for maps {tuple(maps.shape)}", "give (N, H, W), true on the object"
        )
    return (wide > 0.5 if wide.is_floating_point() else wide.bool()).to(maps.device)
