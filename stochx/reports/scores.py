"""Figures of scores: the curves behind them, and the images on which the methods disagree most."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from stochx.engine.io.files import atomic
from stochx.engine.io.images import to_picture
from stochx.engine.statistics import interval
from stochx.metrics import Metric
from stochx.reports.colours import colours_of, legend_of_colours, scale_of
from stochx.reports.figure import (
    FAINT,
    OWN,
    TICK,
    as_label,
    new_figure,
    own_style,
    save_figure,
    style_axis,
    wrapped_label,
)
from stochx.reports.fitting import legend_columns
from stochx.reports.html.images import read_picture
from stochx.reports.palette import line_style
from stochx.settings.figures import Look
from stochx.tasks.comparison import bounds_of
from stochx.tasks.score import Scored

STRIP, GAP = 160, 4  # pixels of a side in a gallery, and between two tiles
SHOWN = 10  # images of a gallery
LETTER = 0.065  # inches of a letter in a title of a gallery
ARROWS = {True: "higher is better", False: "lower is better", None: "for comparison"}


def draw_curves(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    metrics: Mapping[str, Metric],
    look: Look = OWN,
) -> bool:
    """Draw all methods' mean curves with 95 % bands, a panel for each metric; return False without any curve."""
    curved = {name: metric for name, metric in metrics.items() if metric.axis}
    panels = {name: _curves(records, methods, name) for name in curved}
    panels = {name: curves for name, curves in panels.items() if curves}
    if not panels:
        return False
    save_figure(path, _curve_figure(panels, methods, curved), look)
    return True


@own_style()
def _curve_figure(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    methods: Sequence[str],
    metrics: Mapping[str, Metric],
) -> Figure:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    entries = legend_columns(methods, 3.6 * columns)
    figure = new_figure(3.6 * columns + 0.2, 2.9 * rows + 0.3 + 0.17 * -(-len(methods) // entries))
    axes, handles = figure.subplots(rows, columns, squeeze=False), dict[str, Line2D]()
    for axis, (name, curves) in zip(axes.flat, panels.items(), strict=False):
        counts = set()
        for place, (method, (places, heights)) in enumerate(curves.items()):
            (colour, dashes), n = line_style(methods.index(method)), len(heights)
            counts.add(n)
            mean = heights.mean(0)
            marker = "o" if len(places) < 12 else None
            (line,) = axis.plot(places, mean, dashes, color=colour, marker=marker, zorder=3 + place)
            handles.setdefault(method, line)
            if n > 2:
                band = [interval(column, bounds_of(metrics[name])) for column in heights.T.tolist()]
                low, high = ([getattr(each, end) for each in band] for end in ("low", "high"))
                axis.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
        metric = metrics[name]
        axis.set_title(f"{wrapped_label(name, 40)}  (n = {', '.join(map(str, sorted(counts)))})")
        axis.set_xlabel(f"{metric.axis}  ({ARROWS[metric.higher_is_better]})")
        axis.set_ylabel(getattr(metric, "height", getattr(metric, "read", "value")))
        style_axis(axis)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.legend([*handles.values()], [*map(as_label, handles)], loc="outside lower center", ncols=entries)
    return figure


def _curves(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], metric: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each method's places (P,) and curves (n, P), over the images for which every method has P values."""
    table: dict[int, dict[str, Mapping[str, Any]]] = {}
    for record in records:
        value = record["scores"][metric]
        if value["value"] is not None and len(value["curve"]) == len(value["places"]):
            table.setdefault(record["index"], {})[record["method"]] = value
    whole = [row for row in table.values() if all(m in row for m in methods)]
    if not whole:
        return {}
    places = whole[0][methods[0]]["places"]
    whole = [row for row in whole if all(len(row[m]["curve"]) == len(places) for m in methods)]
    return {m: (np.array(places), np.array([row[m]["curve"] for row in whole])) for m in methods}


def save_strip(path: Path, scored: Scored, unsigned: Collection[str] = ()) -> None:
    """Write the image and its maps side by side as a small PNG, a row of the gallery.

    Maps of `unsigned` methods are drawn by their absolute value.
    """
    assert scored.image is not None
    picture = to_picture(scored.image)
    tiles = [picture]
    for method, relevance in scored.maps.items():
        values = relevance.numpy()
        tiles.append(colours_of(values, scale_of(values), method not in unsigned))
    height, width = picture.shape[:2]
    size = (max(1, round(STRIP * width / height)), STRIP)
    small = [_resized(tile, size) for tile in tiles]
    gap = np.full((STRIP, GAP, 3), 255, np.uint8)
    row = np.concatenate([part for tile in small for part in (tile, gap)][:-1], axis=1)
    with atomic(path) as temporary:
        Image.fromarray(row).save(temporary, format="PNG")


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture (H, W, 3) in [0, 1] as 8-bit pixels of another size (width, height)."""
    pixels = Image.fromarray((picture * 255).astype(np.uint8))
    return np.asarray(pixels.resize(size, Image.Resampling.BILINEAR))


def draw_gallery(
    path: Path,
    strips: Path,
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    files: Sequence[str],
    unsigned: Collection[str] = (),
    look: Look = OWN,
) -> bool:
    """Draw the strips of the images on which the methods disagree most, largest first; return False without strips.

    Strips that are damaged are left out.
    """
    by_image = {record["index"]: record for record in records}
    ranked = sorted(by_image.values(), key=lambda record: -(record["disagreement"] or 0.0))
    read = ((record, read_picture(strips / f"{files[record['index']]}.png")) for record in ranked)
    found = list(islice(((record, picture) for record, picture in read if picture is not None), SHOWN))
    if not found:
        return False
    shown, pictures = zip(*found, strict=True)
    save_figure(path, _gallery_figure(shown, pictures, methods, set(unsigned).intersection(methods)), look)
    return True


@own_style()
def _gallery_figure(
    shown: Sequence[Mapping[str, Any]],
    pictures: Sequence[np.ndarray],
    methods: Sequence[str],
    unsigned: Collection[str],
) -> Figure:
    columns, widest = 1 + len(methods), max(picture.shape[1] for picture in pictures)
    titles = ["image", *(wrapped_label(method, max(8, int(widest / 100 / columns / LETTER))) for method in methods)]
    above = 0.14 * max(title.count("\n") + 1 for title in titles)  # inches, as the names in the margin
    figure = new_figure(widest / 100 + 2.0, 1.7 * len(shown) + above + 0.45)
    figure.set_layout_engine("compressed")  # images stand close together
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for line, record, picture in zip(axes, shown, pictures, strict=True):
        for axis, tile in zip(line, _tiles(picture, columns), strict=True):
            axis.imshow(tile, interpolation="nearest")
            axis.set_axis_off()
        place = {"transform": line[0].transAxes, "ha": "right", "va": "center"}
        line[0].text(-0.05, 0.5, _facts(record), fontsize=TICK, **place)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=TICK)
    figure.supxlabel(legend_of_colours(len(unsigned) < len(methods), bool(unsigned)), fontsize=TICK, color=FAINT)
    return figure


def _tiles(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the image and its maps, which a strip holds side by side with gaps."""
    side = (picture.shape[1] - GAP * (count - 1)) // count
    return [picture[:, start : start + side] for start in range(0, count * (side + GAP), side + GAP)]


def _facts(record: Mapping[str, Any]) -> str:
    """Return the lines beside the maps of an image."""
    lines = [f"true: {record['true']}"] if record.get("true") is not None else []
    lines = [wrapped_label(line, 24) for line in (*lines, f"explained: {record['class_name']}")]
    lines.append(f"(p = {record['probability']:.2f})")
    if record["disagreement"] is not None:
        lines.append(f"disagreement {record['disagreement']:.2f}")
    return "\n".join(lines)
