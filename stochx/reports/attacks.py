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
from stochx.engine.io.files import atomic
from stochx.engine.io.images import to_image, to_picture
from stochx.engine.network.classifier import Classifier
from stochx.engine.threat import ROUNDING, Ball
from stochx.reports.figure import (
    INK,
    OWN,
    TICK,
    WRONG,
    as_label,
    hide_frame,
    new_figure,
    own_style,
    save_figure,
    style_axis,
)
from stochx.reports.fitting import legend_columns
from stochx.reports.inputs import magnified
from stochx.reports.palette import line_style
from stochx.settings.figures import Look
from stochx.tasks.attack import Attacked
from stochx.tasks.robustness import WORST

EXAMPLES = 8  # images in a figure of examples
LEVELS = 255
ROOM = 0.024  # share of an axis that a letter below it takes


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
    """An image that was saved: true where rounding to 8 bits took it out of the ball, or made it correct again."""

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


def draw_examples(path: Path, attacked: Attacked, classes: Sequence[str], look: Look = OWN) -> None:
    """Draw images, their worst adversarial images, and the differences, magnified to the whole range."""
    save_figure(path, _example_figure(attacked, classes), look)


@own_style()
def _example_figure(attacked: Attacked, classes: Sequence[str]) -> Figure:
    order = sorted(range(len(attacked.records)), key=lambda n: attacked.records[n].worst - attacked.records[n].clean)
    shown = order[:EXAMPLES]
    figure = new_figure(1.35 * len(shown) + 0.4, 5.3)
    axes = figure.subplots(3, len(shown), squeeze=False)
    for column, n in enumerate(shown):
        record = attacked.records[n]
        name = record.worst_attack or next(iter(attacked.adversarial))
        x, adv = attacked.x[n].cpu(), attacked.adversarial[name][n].cpu()
        change = adv - x
        scale = float(change.abs().max())
        pictures = [x, adv, magnified(change)]
        predictions = record.prediction, record.attacks[name].prediction
        first = f"true: {as_label(classes[record.label], 13)}\npredicted: {as_label(classes[predictions[0]], 13)}"
        titles = [first, f"predicted: {as_label(classes[predictions[1]], 13)}", _magnified(scale)]
        wrong = [*(prediction != record.label for prediction in predictions), False]
        for axis, picture, title, red in zip(axes[:, column], pictures, titles, wrong, strict=True):
            axis.imshow(to_picture(picture.clamp(0, 1)), interpolation="nearest")
            axis.set_title(title, fontsize=TICK, color=WRONG if red else INK)
            hide_frame(axis)
    for axis, text in zip(axes[:, 0], ("image", "attacked", "difference"), strict=True):
        axis.set_ylabel(text)
    return figure


def _magnified(scale: float) -> str:
    return f"× {0.5 / scale:.3g}" if scale else "unchanged"


def draw_sweep(
    path: Path, rows: Sequence[Mapping[str, Any]], degree: str = "degree of noise (1: as trained)", look: Look = OWN
) -> None:
    """Draw accuracy with 95 % intervals and attack success over the radius or the `degree`, a line for each attack."""
    save_figure(path, _sweep_figure(rows, degree), look)


@own_style()
def _sweep_figure(rows: Sequence[Mapping[str, Any]], degree: str) -> Figure:
    key = "eps" if rows[0]["degree"] is None else "degree"
    names = list(dict.fromkeys(row["attack"] for row in rows))
    entries = legend_columns(["no attack", *names], 7.2)
    figure = new_figure(7.2, 3.2 + 0.17 * -(-(len(names) + 1) // entries))
    left, right = figure.subplots(1, 2)
    clean = {row[key]: row for row in rows}
    _curve(left, clean.values(), key, ("clean", "clean_low", "clean_high"), "no attack", "0.5", ":")
    for k, name in enumerate(names):
        of_attack = [row for row in rows if row["attack"] == name]
        colour, dashes = ("0.1", "--") if name == WORST else line_style(k)
        _curve(left, of_attack, key, ("robust", "low", "high"), as_label(name, 60), colour, dashes)
        _curve(right, of_attack, key, ("success", "success", "success"), "", colour, dashes)
    left.set_ylabel(f"accuracy (n = {rows[0]['n']})")
    right.set_ylabel("attack success")
    typed = {row[key]: row["typed"] if key == "eps" else f"{row[key]:.4g}" for row in rows}
    for axis in (left, right):
        axis.set_xlabel(f"radius eps ({rows[0]['norm']}, pixels in [0, 1])" if key == "eps" else degree)
        axis.set_ylim(-0.02, 1.02)
        _mark_points(axis, typed)
        style_axis(axis)
    figure.legend(loc="outside lower center", ncols=entries)
    return figure


def _mark_points(axis: Axes, typed: Mapping[float, str]) -> None:
    """Mark the points of a sweep as they were typed, as many as have room for their texts."""
    points = sorted(typed)
    span = points[-1] - points[0] or 1.0
    kept, free = [points[-1]], points[-1]  # from the right, where the points of most sweeps are far apart
    for point in reversed(points[:-1]):
        if (free - point) / span > ROOM * (len(typed[point]) + len(typed[kept[-1]])) / 2:
            kept.append(point)
            free = point
    kept.reverse()
    axis.set_xticks(kept, [typed[point] for point in kept])
    axis.set_xticks(points, minor=True)


def _curve(
    axis: Axes,
    rows: Iterable[Mapping[str, Any]],
    over: str,
    of: tuple[str, str, str],
    label: str,
    colour: str,
    line: str,
) -> None:
    """Draw the mean, low and high ends that the keys `of` name, over another key."""
    points = sorted((row[over], *(row[name] for name in of)) for row in rows)
    x, mean, low, high = np.array(points, dtype=float).T
    axis.plot(x, mean, marker="o", label=label, color=colour, linestyle=line)
    axis.fill_between(x, low, high, alpha=0.13, linewidth=0, color=colour)
