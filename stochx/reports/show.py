"""`stochx.show`: maps in a notebook, drawn as the commands draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.colours import colours_of, overlay, scale_of
from stochx.engine.io.images import to_picture
from stochx.engine.maps import Maps, maps_of
from stochx.errors import InputError, UsageError
from stochx.reports.figure import as_label, figure_bytes, hide_frame, own_style, wrapped_label

SIDE = 3.0  # inches
LETTERS = 40  # of a title


class Shown(Figure):
    """A figure that a notebook displays where it is the value of a cell; `savefig(path)` writes it."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self)


@dataclass(frozen=True)
class Explained:
    """The maps (N, H, W) of an explanation, summed over channels, their colours, and the name of their method."""

    maps: np.ndarray
    signed: bool
    method: str


@own_style()
def show(*content: Maps, titles: Sequence[str] | str = (), signed: bool | None = None) -> Figure:
    """Return a figure of images and their maps: `show(x, explanation)`, or `show(x, one, another)` to compare methods.

    x is (N, C, H, W) or (C, H, W) in [0, 1], and may be left out, or come last. An explanation stands in a row for each
    image: the image, the map, and the map on the image; several stand side by side. Each may also be maps as metrics
    take them. Red speaks for the class, blue against it; |map| is drawn in purple where the sign is no evidence, as in
    SmoothTaylor, and wherever `signed` is false. `titles` name the rows, or several explanations, which have the names
    of their methods otherwise. Raises `StochxError` for what cannot be drawn.
    """
    image, maps = _parted(content)
    x = None if image is None else _pictures(image)
    alone = image is not None and image.dim() == 3
    explained = [_explained(each, x, alone, signed) for each in maps]
    names = [titles] if isinstance(titles, str) else list(titles)
    count, several = len(explained[0].maps), len(explained) > 1
    if any(len(each.maps) != count for each in explained):
        raise InputError("explanations of different numbers of images", "give maps of the same images")
    wanted, kind = (len(explained), "explanations") if several else (count, "maps")
    if names and len(names) != wanted:
        raise UsageError(f"there are {len(names)} titles for {wanted} {kind}", "give one for each")
    heads = names if several and names else [each.method for each in explained]
    return _draw(x, explained, heads, () if several else names)


def _parted(content: Sequence[Maps]) -> tuple[Tensor | None, list[Maps]]:
    """Return the images, where there are any, and the maps."""
    if not content:
        raise UsageError("there is nothing to show", "write `stochx.show(x, explanation)`")
    first, last = content[0], content[-1]
    if len(content) == 1 or (_is_map(first) and _is_map(last)):
        return None, list(content)
    if not _is_map(first) and (_may_be_image(first) or not _may_be_image(last)):
        return first, list(content[1:])  # type: ignore[return-value]  # what is no image is refused
    return last, list(content[:-1])  # type: ignore[return-value]


def _is_map(given: object) -> bool:
    return hasattr(given, "map")


def _may_be_image(given: object) -> bool:
    """Return true for tensors in [0, 1] of one or three channels: maps leave this range."""
    if not isinstance(given, Tensor) or given.dim() not in (3, 4) or given.shape[-3] not in (1, 3):
        return False
    return given.is_floating_point() and bool(((given >= 0) & (given <= 1)).all())


def _explained(given: Maps, x: Tensor | None, alone: bool, signed: bool | None) -> Explained:
    """Return an explanation, or maps, as they are drawn."""
    maps, _ = maps_of(given, x, alone)
    signs = getattr(given, "signed", True) if signed is None else signed
    return Explained(maps.sum(1).float().cpu().numpy(), signs, getattr(given, "method", ""))


def _draw(x: Tensor | None, explained: Sequence[Explained], heads: Sequence[str], names: Sequence[str]) -> Figure:
    """Return the figure: a row for each image, whose name stands above it, and a head above each explanation."""
    count, height, width = explained[0].maps.shape
    both = x is not None and len(explained) == 1  # room for the maps on their images too
    columns = (x is not None) + len(explained) + both
    figure = Shown(figsize=(SIDE * columns, (SIDE * height / width + 0.3) * count), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for n in range(count):
        pictures = []
        if x is not None:
            grid = to_picture(x[n].clamp(0, 1))
            pictures.append(grid)
        for each in explained:
            scale = scale_of(each.maps[n])
            pictures.append(colours_of(each.maps[n], scale, each.signed))
            if both:
                pictures.append(overlay(grid, each.maps[n], scale, each.signed))
        for axis, picture in zip(axes[n], pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            hide_frame(axis)
        if names:
            axes[n, 0].set_title(as_label(names[n], LETTERS), loc="left")
    for axis, head in zip(axes[0, int(x is not None) :], heads, strict=False):
        axis.set_title(wrapped_label(head, LETTERS))
    return figure


def _pictures(image: object) -> Tensor:
    """Return images (N, C, H, W) to be drawn."""
    if not isinstance(image, Tensor) or image.dim() not in (3, 4):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise UsageError(f"`image` is {shape}", "give (N, C, H, W) or (C, H, W), as `stochx.read_image` does")
    x = image.detach()[None] if image.dim() == 3 else image.detach()
    if x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise InputError(
            f"`image` is {tuple(image.shape)}, {str(image.dtype).removeprefix('torch.')}", "give RGB in [0, 1]"
        )
    return x
