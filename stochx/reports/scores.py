"""Figures of scores: the curves behind them, and the images on which the methods disagree most."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from stochx.engine.io.store import atomic
from stochx.engine.statistics import interval
from stochx.metrics import Metric
from stochx.reports.colours import diverging, scale_of
from stochx.reports.figure import save_figure, shorten, style_axis
from stochx.tasks.score import Scored, bounds_of

STRIP = 160  # pixels of a side in a gallery
SHOWN = 10  # images of a gallery
ARROWS = {True: "higher is better", False: "lower is better", None: "for comparison"}


def draw_curves(
    path: Path, records: Sequence[Mapping[str, Any]], methods: Sequence[str], metrics: Mapping[str, Metric]
) -> bool:
    """Draw all methods' mean curves with 95 % bands, a panel for each metric; return False without any curve."""
    curved = {name: metric for name, metric in metrics.items() if metric.axis}
    panels = {name: _curves(records, methods, name) for name in curved}
    panels = {name: curves for name, curves in panels.items() if curves}
    if not panels:
        return False
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.4 * columns, 4.0 * rows + 0.5 + 0.16 * len(methods)), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False)
    colours = matplotlib.colormaps["tab10" if len(methods) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for axis, (name, curves) in zip(axes.flat, panels.items(), strict=False):
        counts = set()
        for place, (method, (places, heights)) in enumerate(curves.items()):
            colour, n = colours[methods.index(method) % len(colours)], len(heights)
            counts.add(n)
            mean = heights.mean(0)
            marker = "o" if len(places) < 12 else None
            axis.plot(places, mean, color=colour, label=method, marker=marker, markersize=3, zorder=3 + place)
            if n > 2:
                band = [interval(column, bounds_of(curved[name])) for column in heights.T.tolist()]
                low, high = ([getattr(each, end) for each in band] for end in ("low", "high"))
                axis.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
        axis.set_title(f"{name}  (n = {', '.join(map(str, sorted(counts)))})", fontsize=10)
        axis.set_xlabel(f"{curved[name].axis}  ({ARROWS[curved[name].higher_is_better]})", fontsize=9)
        style_axis(axis)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=8, frameon=False)
    save_figure(path, figure)
    return True


def _curves(
    records: Sequence[Mapping[str, Any]], methods: Sequence[str], metric: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each method's places (P,) and curves (n, P), over the images for which every method has P values."""
    table: dict[int, dict[str, Mapping[str, Any]]] = {}
    for record in records:
        value = record["scores"][metric]
        if value["value"] is not None:
            table.setdefault(record["index"], {})[record["method"]] = value
    whole = [row for row in table.values() if all(m in row for m in methods)]
    if not whole:
        return {}
    places = whole[0][methods[0]]["places"]
    whole = [row for row in whole if all(len(row[m]["curve"]) == len(places) for m in methods)]
    return {m: (np.array(places), np.array([row[m]["curve"] for row in whole])) for m in methods}


def save_strip(path: Path, scored: Scored) -> None:
    """Write the image and its maps side by side as a small PNG, a row of the gallery."""
    assert scored.image is not None
    picture = scored.image.permute(1, 2, 0).numpy()
    maps = [relevance.numpy() for relevance in scored.maps.values()]
    tiles = [(picture * 255).astype(np.uint8)]
    tiles += [(diverging(values, scale_of(values)) * 255).astype(np.uint8) for values in maps]
    height, width = picture.shape[:2]
    size = (max(1, round(STRIP * width / height)), STRIP)
    small = [np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BILINEAR)) for tile in tiles]
    gap = np.full((STRIP, 4, 3), 255, np.uint8)
    row = np.concatenate([part for tile in small for part in (tile, gap)][:-1], axis=1)
    with atomic(path) as temporary:
        Image.fromarray(row).save(temporary, format="PNG")


def draw_gallery(
    path: Path, strips: Path, records: Sequence[Mapping[str, Any]], methods: Sequence[str], files: Sequence[str]
) -> bool:
    """Draw the strips of the images on which the methods disagree most, largest first; return False without strips."""
    by_image = {record["index"]: record for record in records}
    ranked = sorted(by_image.values(), key=lambda record: -(record["disagreement"] or 0.0))
    shown = [record for record in ranked if (strips / f"{files[record['index']]}.png").exists()][:SHOWN]
    if not shown:
        return False
    pictures = []
    for record in shown:
        with Image.open(strips / f"{files[record['index']]}.png") as image:
            pictures.append(np.asarray(image.convert("RGB")))
    widest = max(picture.shape[1] for picture in pictures)
    width, height, margin = widest / 100 + 2.2, 1.7 * len(shown) + 0.4, 2.0  # inches; the names stand in the margin
    figure = Figure(figsize=(width, height), dpi=110)
    figure.subplots_adjust(margin / width, 0.1 / height, 1 - 0.1 / width, 1 - 0.3 / height, hspace=0.05)
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    columns = 1 + len(methods)
    for axis, record, picture in zip(axes, shown, pictures, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_axis_off()
        disagreement = record["disagreement"]
        name = "\n".join(textwrap.wrap(record["class_name"], 20))
        text = f"{name}\n(p = {record['probability']:.2f})"
        text += "" if disagreement is None else f"\ndisagreement {disagreement:.2f}"
        axis.text(-0.01, 0.5, text, transform=axis.transAxes, ha="right", va="center", fontsize=7)
    for column, title in enumerate(["image", *methods]):
        place = (column + 0.5) / columns
        axes[0].text(place, 1.04, shorten(title, 26), transform=axes[0].transAxes, ha="center", va="bottom", fontsize=7)
    save_figure(path, figure)
    return True
