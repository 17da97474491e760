"""Figures of decision boundaries: classes shaded by confidence, and disagreement between the draws of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from stochx.engine.io.archives import read_npz
from stochx.engine.io.images import to_picture
from stochx.engine.plane import Plane
from stochx.errors import InputError, first_line, printable
from stochx.input_files import open_file
from stochx.reports.arrays import save_arrays
from stochx.reports.figure import (
    FAINT,
    LABEL,
    OWN,
    TICK,
    as_label,
    new_figure,
    own_style,
    save_figure,
    wrapped_label,
)
from stochx.reports.fitting import legend_columns
from stochx.reports.palette import OTHER, class_colours
from stochx.reports.shading import shade
from stochx.settings.figures import Look
from stochx.tasks.boundary import BoundaryRow
from stochx.tasks.sequential import Predictions

EDGE, HATCH = "#222222", "#00000055"
BEYOND = 0.05  # share of an image's values outside [0, 1] above which the plane is hatched
MOST = 2**29  # bytes of the arrays of a plane
CELLS = 900  # least pixels on the longer side of a panel
COLUMNS = 4  # panels in a row, where each network has a single panel
SIDE, STRIP = 3.3, 1.25  # inches: side of a panel, width of the strip of images


@dataclass(frozen=True)
class Scene:
    """Content that all panels of a plane share.

    `a` (W,) and `b` (H,) are the grid in the axes' units of `unit` coordinates; `labels` name the axes; `pictures` are
    (3, H, W) images with captions; `beyond` (H, W) is the share of values outside [0, 1]; `far` (H, W) is the Linf
    distance in those units, or None where no ball of radius 1 is drawn. `colours` are those of the classes that appear.
    """

    plane: Plane
    a: Tensor
    b: Tensor
    unit: float
    labels: tuple[str, str]
    pictures: Sequence[tuple[Tensor, str]]
    beyond: Tensor
    far: Tensor | None
    classes: Sequence[str]
    colours: dict[int, str]


@dataclass(frozen=True)
class Panel:
    """A network: its name, its numbers, and its predictions at every cell."""

    name: str
    row: BoundaryRow
    predictions: Predictions


def palette(maps: Sequence[Tensor]) -> dict[int, str]:
    """Return the colour of each class that appears in maps of labels, in the order of area."""
    area: dict[int, int] = {}
    for labels in maps:
        for k, count in enumerate(labels.flatten().bincount().tolist()):
            area[k] = area.get(k, 0) + count
    return class_colours(sorted((k for k, count in area.items() if count), key=lambda k: (-area[k], k)))


def short_names(texts: Sequence[str]) -> list[str]:
    """Shorten model arguments to the fewest last parts of their paths that distinguish them."""
    parts = [text.removesuffix(".safetensors").removesuffix(".pt").split("/") for text in texts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names}) == len({*texts}):
            return names
    return list(texts)


def save_plane(path: Path, scene: Scene) -> None:
    """Write `origin` and `axes` in pixels, the grid's coordinates `a` and `b`, the `marks`, and `beyond`."""
    plane = scene.plane
    arrays = {"origin": plane.origin, "axes": plane.axes, "a": scene.a * scene.unit, "b": scene.b * scene.unit}
    _save_tensors(path, {**arrays, "marks": plane.marks, "beyond": scene.beyond})


def save_maps(path: Path, predictions: Predictions) -> None:
    """Write `labels`, `confidence`, `disagreement` and `draws` of a network, each (H, W)."""
    _save_tensors(path, vars(predictions))


def read_maps(path: Path) -> Predictions:
    """Read the predictions that `save_maps` wrote; raises `InputError` for damaged ones and for earlier versions'."""
    names = [field.name for field in fields(Predictions)]
    with open_file(path) as file:
        try:
            arrays = read_npz(file, names, MOST)
        except Exception as error:  # damaged bytes: zipfile, zlib and the header's parser raise almost anything
            raise InputError(
                f"`{printable(path)}` is damaged: {first_line(error)}", "remove it, and use `--resume`"
            ) from None
    if not {*names} <= {*arrays}:
        raise InputError(f"`{printable(path)}` is of an earlier version", "draw the planes anew with `--overwrite`")
    return Predictions(*(torch.from_numpy(arrays[name]) for name in names))


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_arrays(path, {name: tensor.numpy() for name, tensor in tensors.items()})


def draw_plane(path: Path, scene: Scene, panels: Sequence[Panel], look: Look = OWN) -> None:
    """Draw all networks on one plane: a row for each where draws disagree, else a panel for each."""
    save_figure(path, make_figure(scene, panels, scale_end(panels)), look)


def scale_end(panels: Sequence[Panel]) -> float | None:
    """Return the upper end of the scale of disagreement; None where no network has noise."""
    noisy = [float(panel.predictions.disagreement.max()) for panel in panels if panel.row.disagreement is not None]
    return max(0.1, *noisy) if noisy else None


@own_style()
def make_figure(scene: Scene, panels: Sequence[Panel], largest: float | None) -> Figure:
    """Return the figure of the panels, with a second column for disagreement where its scale ends at `largest`."""
    columns = min(len(panels), COLUMNS) if largest is None else 2
    rows = -(-len(panels) // columns) if largest is None else len(panels)
    handles, width = _handles(scene), columns * (SIDE + 0.3) + (0.0 if largest is None else 0.6)
    entries = legend_columns([str(handle.get_label()) for handle in handles], width)
    height = rows * (SIDE * len(scene.b) / len(scene.a) + 0.75) + 0.22 * -(-len(handles) // entries) + 0.2
    figure = new_figure(STRIP + width, height)
    strip, body = figure.subfigures(1, 2, squeeze=False, width_ratios=[STRIP, width])[0]
    _strip(strip, scene, height)
    axes = body.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, panel in enumerate(panels):
        _classes(axes.flat[place] if largest is None else axes[place, 0], scene, panel)
        if largest is not None:
            _disagreement(axes[place, 1], scene, panel, largest)
    used = len(panels) * (1 if largest is None else 2)
    for place, axis in enumerate(axes.flat):
        axis.set_xlabel(scene.labels[0] if place + columns >= used else "")
        axis.set_ylabel(scene.labels[1] if place % columns == 0 else "")
    if largest is not None:
        bar = body.colorbar(ScalarMappable(Normalize(0, largest), "magma_r"), ax=axes[:, 1], shrink=0.8, pad=0.02)
        bar.set_label("share of draws that disagree")
    body.legend(handles=handles, loc="outside lower center", ncols=entries)
    return figure


def _strip(figure: SubFigure, scene: Scene, height: float) -> None:
    """Draw the images below one another, from the top."""
    slots = max(len(scene.pictures), int(height / STRIP))
    axes = figure.subplots(slots, 1, squeeze=False)[:, 0]
    for axis in axes:
        axis.set_axis_off()
    for axis, (picture, caption) in zip(axes, scene.pictures, strict=False):
        axis.imshow(to_picture(picture.clamp(0, 1)), interpolation="nearest")
        axis.set_title(wrapped_label(caption, 18), fontsize=LABEL)


def _classes(axis: Axes, scene: Scene, panel: Panel) -> None:
    """Draw the predicted classes, under the network's name and numbers."""
    labels, confidence = panel.predictions.labels.numpy(), panel.predictions.confidence.numpy()
    picture = shade(labels, confidence, scene.colours, len(scene.classes), CELLS)
    axis.imshow(picture, extent=_extent(scene), origin="lower")
    _furnish(axis, scene, EDGE)
    axis.set_title(as_label(panel.name, 38), loc="left", fontweight="bold", pad=16)
    axis.text(0, 1.015, _numbers(panel.row), transform=axis.transAxes, fontsize=TICK, color=FAINT, va="bottom")


def _disagreement(axis: Axes, scene: Scene, panel: Panel, largest: float) -> None:
    """Draw the share of draws that disagree, on a scale up to `largest`."""
    if panel.row.disagreement is None:
        axis.text(0.5, 0.5, "no noise", transform=axis.transAxes, ha="center", color="0.5")
        return
    axis.imshow(
        panel.predictions.disagreement.numpy(),
        extent=_extent(scene),
        origin="lower",
        interpolation="nearest",
        cmap="magma_r",
        vmin=0,
        vmax=largest,
    )
    _furnish(axis, scene, "#3366AA")
    text = f"mean {panel.row.disagreement:.3f}"
    axis.text(0, 1.015, text, transform=axis.transAxes, fontsize=TICK, color=FAINT, va="bottom")


def _extent(scene: Scene) -> tuple[float, float, float, float]:
    """Return the left, right, lower and upper edges of the grid's cells."""
    half = float(scene.a[1] - scene.a[0]) / 2
    (left, right), (low, high) = ((float(line[0]) - half, float(line[-1]) + half) for line in (scene.a, scene.b))
    return left, right, low, high


def _furnish(axis: Axes, scene: Scene, colour: str) -> None:
    """Draw the axes, the places of the images, the ball, and hatching where values leave [0, 1]."""
    if (scene.beyond > BEYOND).any():
        area = axis.contourf(scene.a, scene.b, scene.beyond, levels=[BEYOND, 2.0], colors="none", hatches=["..."])
        area.set(edgecolor=HATCH, linewidth=0)
    if scene.far is not None:
        axis.contour(scene.a, scene.b, scene.far, levels=[1.0], colors=colour, linestyles="--", linewidths=1.1)
    marks = scene.plane.marks / scene.unit
    several = len(marks) > 1
    for n, (x, y) in enumerate(marks.tolist(), 1):
        axis.plot(x, y, "o", ms=11 if several else 6, mfc="white", mec=EDGE, mew=1.0)
        axis.text(x, y, str(n) if several else "", ha="center", va="center_baseline", fontsize=7.5, fontweight="bold")
    axis.set_axis_on()
    axis.set_aspect("equal")


def _numbers(row: BoundaryRow) -> str:
    """Return the line under a network's name."""
    distance, unit = (row.distance_eps, " eps") if row.distance_eps is not None else (row.distance, "")
    where = "no boundary on the axis" if distance is None else f"boundary at {distance:.2f}{unit}"
    return f"agreement {row.agreement:.2f}, {row.regions} region{'s' * (row.regions > 1)}, {where}"


def _handles(scene: Scene) -> list[Patch | Line2D]:
    """Return the legend's entries: the classes by area, the ball, and the hatching."""
    own = [k for k, colour in scene.colours.items() if colour != OTHER]
    handles: list[Patch | Line2D] = [
        Patch(facecolor=scene.colours[k], edgecolor=EDGE, linewidth=0.6, label=as_label(scene.classes[k], 40))
        for k in own
    ]
    if len(own) < len(scene.colours):
        handles.append(Patch(facecolor=OTHER, label=f"{len(scene.colours) - len(own)} others"))
    if scene.far is not None:
        handles.append(Line2D([], [], color=EDGE, linestyle="--", linewidth=1.1, label="ball of radius eps"))
    if (scene.beyond > BEYOND).any():
        label = f"> {BEYOND:.0%} beyond [0, 1]"
        handles.append(Patch(facecolor="white", edgecolor=HATCH, hatch="...", linewidth=0.4, label=label))
    return handles
