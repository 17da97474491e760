"""Files of an attack: changed images, examples, and the curve over radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.images import to_image
from stochx.engine.store import atomic
from stochx.engine.threat import Ball
from stochx.tasks.attack import Attacked

SHOWN = 8  # images in a figure of examples
LEVELS = 255


def on_the_grid(adv: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Changed images (N, C, H, W) in whole 8-bit steps, rounded towards x where the nearest step is too far in Linf."""
    steps = (adv * LEVELS).round()
    if ball.norm == "linf":
        slack = 1e-4  # of a step: 8/255 and 8-bit images lie on the grid but for rounding
        low, high = ((x - ball.eps) * LEVELS - slack).ceil(), ((x + ball.eps) * LEVELS + slack).floor()
        steps = steps.clamp(low, high.maximum(low))
    return steps.clamp(0, LEVELS) / LEVELS


def save_images(folder: Path, attacked: Attacked, ball: Ball, files: Sequence[str]) -> dict[str, float]:
    """`IMAGE.png` of each image's worst attack; by name of the image, the distance after rounding to 8 bits."""
    distances = {}
    for n, record in enumerate(attacked.records):
        adv = attacked.adversarial[record.worst_attack or next(iter(attacked.adversarial))][n : n + 1]
        rounded = on_the_grid(adv, attacked.x[n : n + 1], ball)
        distances[record.image] = float(ball.length(rounded, attacked.x[n : n + 1]))
        with atomic(folder / f"{files[record.index]}.png") as temporary:
            to_image(rounded[0]).save(temporary, format="PNG")
    return distances


def draw_examples(path: Path, attacked: Attacked, classes: Sequence[str]) -> None:
    """Images, what the worst attack made of them, and the difference, magnified to the whole range."""
    order = sorted(range(len(attacked.records)), key=lambda n: attacked.records[n].worst - attacked.records[n].clean)
    shown = order[:SHOWN]
    figure = Figure(figsize=(1.5 * len(shown) + 0.9, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots(3, len(shown), squeeze=False)
    for column, n in enumerate(shown):
        record = attacked.records[n]
        name = record.worst_attack or next(iter(attacked.adversarial))
        x, adv = attacked.x[n].cpu(), attacked.adversarial[name][n].cpu()
        change = adv - x
        scale = float(change.abs().max()) or 1.0
        pictures = [x, adv, 0.5 + change / (2 * scale)]
        said = classes[record.attacks[name].prediction]
        titles = [classes[record.label], said, f"x {0.5 / scale:.0f}"]
        for axis, picture, title in zip(axes[:, column], pictures, titles, strict=True):
            axis.imshow(np.asarray(to_image(picture)), interpolation="nearest")
            wrong = axis is axes[1, column] and record.worst < record.clean
            axis.set_title(
                title if len(title) < 19 else title[:18] + "…", fontsize=7, color="#b2182b" if wrong else "0.2"
            )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for axis, text in zip(axes[:, 0], ("image", "attacked", "difference"), strict=True):
        axis.set_ylabel(text, fontsize=8)
    with atomic(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary)


def draw_sweep(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy against the radius, a line for each attack, with 95 % intervals."""
    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axis = figure.subplots()
    for name in dict.fromkeys(row["attack"] for row in rows):
        points = sorted((row["eps"], row["robust"], row["low"], row["high"]) for row in rows if row["attack"] == name)
        eps, robust, low, high = (np.array(values) for values in zip(*points, strict=True))
        axis.plot(eps, robust, marker="o", markersize=3.5, label=name)
        axis.fill_between(eps, low, high, alpha=0.13, linewidth=0)
    clean = rows[0]["clean"]
    axis.axhline(clean, color="0.5", linestyle=":", linewidth=1, label="no attack")
    axis.set_xlabel(f"radius ({rows[0]['norm']}, pixels in [0, 1])", fontsize=9)
    axis.set_ylabel(f"accuracy (n = {rows[0]['n']})", fontsize=9)
    axis.set_ylim(-0.02, 1.0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
    with atomic(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary)
