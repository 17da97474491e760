"""Files of an attack: adversarial images, examples, and curves over radii or degrees of noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.gradients import logits
from stochx.engine.io.images import to_image
from stochx.engine.io.store import atomic
from stochx.engine.network.classifier import Classifier
from stochx.engine.threat import ROUNDING, Ball
from stochx.reports.figure import save_figure, shorten, style_axis
from stochx.tasks.attack import Attacked
from stochx.tasks.robustness import WORST

SHOWN = 8  # images in a figure of examples
LEVELS = 255


def round_to_8_bits(adv: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Round adversarial images (N, C, H, W) to 8-bit steps, towards x where the nearest step leaves the Linf ball."""
    steps = (adv * LEVELS).round()
    if ball.norm == "linf":
        slack = ROUNDING * LEVELS  # of a step: 8/255 and 8-bit images lie on the grid but for rounding
        low, high = ((x - ball.eps) * LEVELS - slack).ceil(), ((x + ball.eps) * LEVELS + slack).floor()
        steps = steps.clamp(low, high.maximum(low))
    return steps.clamp(0, LEVELS) / LEVELS


@dataclass(frozen=True)
class Saved:
    """An image that was saved: whether rounding to 8 bits took it out of the ball, or made it correct again."""

    outside: bool
    healed: bool


def save_images(
    folder: Path, model: Classifier, attacked: Attacked, ball: Ball, files: Sequence[str]
) -> dict[int, Saved]:
    """Write `IMAGE.png` of each image's worst attack; return by the image's index what rounding changed.

    Images that are correct again are only found where the network has no noise.
    """
    worst = [record.worst_attack or next(iter(attacked.adversarial)) for record in attacked.records]
    adv = torch.stack([attacked.adversarial[name][n] for n, name in enumerate(worst)])
    rounded = round_to_8_bits(adv, attacked.x, ball)
    for image, record in zip(rounded, attacked.records, strict=True):
        with atomic(folder / f"{files[record.index]}.png") as temporary:
            to_image(image).save(temporary, format="PNG")
    outside = (~ball.holds(rounded, attacked.x)).tolist()
    predictions = logits(model, rounded).argmax(1).tolist() if model.noise == "none" else [None] * len(rounded)
    return {
        record.index: Saved(out, record.worst == 0 and prediction == record.label)
        for out, prediction, record in zip(outside, predictions, attacked.records, strict=True)
    }


def draw_examples(path: Path, attacked: Attacked, classes: Sequence[str]) -> None:
    """Draw images, their worst adversarial images, and the differences, magnified to the whole range."""
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
        prediction = classes[record.attacks[name].prediction]
        titles = [classes[record.label], prediction, f"x {0.5 / scale:.0f}"]
        for axis, picture, title in zip(axes[:, column], pictures, titles, strict=True):
            axis.imshow(np.asarray(to_image(picture)), interpolation="nearest")
            wrong = axis is axes[1, column] and record.worst < record.clean
            axis.set_title(shorten(title, 19), fontsize=7, color="#b2182b" if wrong else "0.2")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for axis, text in zip(axes[:, 0], ("image", "attacked", "difference"), strict=True):
        axis.set_ylabel(text, fontsize=8)
    save_figure(path, figure)


def draw_sweep(path: Path, rows: Sequence[Mapping[str, Any]], degree: str = "degree of noise (1: as trained)") -> None:
    """Draw accuracy with 95 % intervals and attack success over the radius or the `degree`, a line for each attack."""
    key = "eps" if rows[0]["degree"] is None else "degree"
    norm, scale = rows[0]["norm"], 255 if key == "eps" and rows[0]["norm"] == "linf" else 1
    radius = "radius (linf, of 255)" if scale == 255 else f"radius ({norm}, pixels in [0, 1])"
    figure = Figure(figsize=(9.6, 4.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    clean = {row[key]: row for row in rows}
    _curve(left, clean.values(), (key, scale), ("clean", "clean_low", "clean_high"), "no attack", "0.5", ":")
    for k, name in enumerate(dict.fromkeys(row["attack"] for row in rows)):
        of_attack = [row for row in rows if row["attack"] == name]
        style = ("0.1", "--") if name == WORST else (f"C{k}", "-")
        _curve(left, of_attack, (key, scale), ("robust", "low", "high"), name, *style)
        _curve(right, of_attack, (key, scale), ("success", "success", "success"), "", *style)
    left.set_ylabel(f"accuracy (n = {rows[0]['n']})", fontsize=9)
    right.set_ylabel("attack success", fontsize=9)
    for axis in (left, right):
        axis.set_xlabel(radius if key == "eps" else degree, fontsize=9)
        axis.set_ylim(-0.02, 1.02)
        style_axis(axis)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save_figure(path, figure)


def _curve(
    axis: Axes,
    rows: Iterable[Mapping[str, Any]],
    over: tuple[str, float],
    of: tuple[str, str, str],
    label: str,
    colour: str,
    line: str,
) -> None:
    """Draw the mean, low and high ends that the keys `of` name, over another key times its scale."""
    key, scale = over
    points = sorted((scale * row[key], *(row[name] for name in of)) for row in rows)
    x, mean, low, high = np.array(points, dtype=float).T
    axis.plot(x, mean, marker="o", markersize=3.5, label=label, color=colour, linestyle=line)
    axis.fill_between(x, low, high, alpha=0.13, linewidth=0, color=colour)
