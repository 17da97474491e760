"""Files of an explanation: raw maps as .npz, and the figure."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.seeds import digest
from stochx.reports.arrays import save_arrays
from stochx.reports.colours import STOPS, diverging, overlay, scale_of
from stochx.reports.figure import save_figure, shorten
from stochx.tasks.explain import Explained, ExplanationRow

DIVERGING = LinearSegmentedColormap.from_list("stochx", STOPS.tolist())
TOP = 5


def file_names(names: Sequence[str]) -> list[str]:
    """Return short, safe file names for images or methods: the last part of a path, with a hash where two are alike."""
    stems = [re.sub(r"[^\w=,.+-]", "_", _stem(name))[:80] or "image" for name in names]
    counts = Counter(stems)
    return [
        stem if counts[stem] == 1 else f"{stem}-{digest(name):016x}"[:96]
        for stem, name in zip(stems, names, strict=True)
    ]


def _stem(name: str) -> str:
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return re.sub(r"\.(jpe?g|png|webp|tiff?|gif|bmp|ppm|pgm)$", "", last, flags=re.IGNORECASE)


def save_map(folder: Path, image: str, row: ExplanationRow, relevance: Tensor) -> Path:
    """Write `IMAGE.METHOD.npz`: `map` (C, H, W), its channel sum `sum` (H, W), signed float32, and the row's fields."""
    path = folder / f"{image}.{file_names([row.method])[0]}.npz"
    values = relevance.numpy().astype(np.float32)
    facts: dict[str, Any] = {
        k: np.array(np.nan if v is None else v) for k, v in dataclasses.asdict(row).items() if k != "index"
    }
    save_arrays(path, {"map": values, "sum": values.sum(0), **facts})
    return path


def draw_explanation(path: Path, explained: Explained, classes: Sequence[str]) -> None:
    """Draw the image as the network saw it, then for each method its map above and its overlay below."""
    columns = 1 + len(explained.rows)
    image = explained.image.permute(1, 2, 0).numpy()
    aspect = image.shape[0] / image.shape[1]
    figure = Figure(figsize=(0.4 + 3.4 * columns, 1.0 + 6.4 * aspect), layout="constrained", dpi=110)
    axes = figure.subplots(2, columns, squeeze=False)
    first = explained.rows[0]
    figure.suptitle(f"{shorten(first.class_name, 60)}  (p = {first.probability:.3f})", fontsize=13)
    axes[0, 0].imshow(image, interpolation="nearest")
    axes[0, 0].set_title("network input", fontsize=9)
    _bars(axes[1, 0], explained, classes)
    for column, row in enumerate(explained.rows, start=1):
        values = explained.maps[row.method].sum(0).numpy()
        scale = scale_of(values)
        axes[0, column].imshow(diverging(values, scale), interpolation="nearest")
        axes[0, column].set_title(shorten(row.method, 44), fontsize=9)
        axes[1, column].imshow(overlay(image, values, scale), interpolation="nearest")
        axes[1, column].set_title(_quality(row), fontsize=8, color="0.35")
        bar = ScalarMappable(Normalize(-scale, scale), DIVERGING)
        figure.colorbar(bar, ax=axes[0, column], fraction=0.045, pad=0.02).ax.tick_params(labelsize=6)
    for axis in [axes[0, 0], *axes[:, 1:].flat]:
        axis.set_axis_off()
    save_figure(path, figure)


def _bars(axis: Axes, explained: Explained, classes: Sequence[str]) -> None:
    """Draw the probabilities of the most probable classes, the explained class in red."""
    top = explained.probabilities.topk(min(TOP, len(classes)))
    names = [classes[i] for i in top.indices.tolist()]
    target = explained.rows[0].target
    colours = ["#b2182b" if i == target else "0.7" for i in top.indices.tolist()]
    axis.barh(range(len(names)), top.values.tolist(), color=colours)
    axis.set_yticks(range(len(names)), [shorten(name, 18) for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title("probability", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _quality(row: ExplanationRow) -> str:
    """Return the line under a map: its Monte-Carlo error, completeness gap and samples, as far as they exist."""
    parts = []
    if row.error is not None:
        parts.append(f"Monte-Carlo error {row.error:.2f}")
    if row.gap is not None:
        parts.append(f"gap {row.gap:+.3f} of logit {row.logit:.2f}")
    if row.used is not None:
        parts.append(f"n = {row.used}")
    return ", ".join(parts)
