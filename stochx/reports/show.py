"""`stochx.show`: maps in a notebook, drawn as the commands draw them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.maps import Maps, maps_of
from stochx.errors import InputError, UsageError
from stochx.reports.colours import colours_of, overlay, scale_of
from stochx.reports.figure import as_label, figure_bytes, hide_frame, own_style

SIDE = 3.0  # inches


class Shown(Figure):
    """A figure that a notebook displays where it is the value of a cell; `savefig(path)` writes it."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self)


@own_style()
def show(map: Maps, image: Tensor | None = None, *, titles: Sequence[str] | str = (), signed: bool = True) -> Figure:
    """Return a figure with a row for each map: its image, the map, and the map on its image.

    `map` is an explanation, or maps as metrics take them; `image` (N, C, H, W) or (C, H, W) in [0, 1]. Red speaks for
    the class, blue against it; `signed=False` draws |map| in purple, for maps whose sign is no evidence, as those of
    SmoothTaylor (`stochx.attributions.is_signed(method)`). Raises `StochxError` for what cannot be drawn.
    """
    x = None if image is None else _pictures(image)
    maps, _ = maps_of(map, x, image is not None and image.dim() == 3)
    names = [titles] if isinstance(titles, str) else list(titles)
    if names and len(names) != len(maps):
        raise UsageError(f"there are {len(names)} titles for {len(maps)} maps", "give one for each")
    columns, (height, width) = (1 if x is None else 3), maps.shape[2:]
    figure = Shown(figsize=(SIDE * columns, (SIDE * height / width + 0.3) * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), columns, squeeze=False)
    for n, relevance in enumerate(maps.sum(1).float().cpu().numpy()):
        scale = scale_of(relevance)
        pictures = [colours_of(relevance, scale, signed)]
        if x is not None:
            grid = x[n].float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()
            pictures = [grid, *pictures, overlay(grid, relevance, scale, signed)]
        for axis, picture in zip(axes[n], pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            hide_frame(axis)
        if names:
            axes[n, 0].set_title(as_label(names[n], 40), loc="left")
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
