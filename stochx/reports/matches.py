"""The figure of a few-shot explanation, and its raw maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.io.store import atomic
from stochx.reports.colours import diverging, scale_of
from stochx.tasks.explain_fewshot import Matched

SHOWN = 3  # support images of a class


def save_matches(path: Path, found: Matched, classes: Sequence[str]) -> None:
    """`query` (N, 3, H, W), `support` (N, K, 3, H, W), `probabilities`, `evidence` and `classes` as .npz."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            query=found.query.numpy(),
            support=found.support.numpy(),
            probabilities=found.probabilities.numpy(),
            evidence=found.evidence.numpy(),
            classes=np.array(classes),
        )


def draw_matches(path: Path, found: Matched, query: Tensor, support: Tensor, classes: Sequence[str]) -> None:
    """For each class what in the query speaks for it (red) or against it, above what in its support raises its score.

    query (3, H, W), support (N, K, 3, H, W). All maps of the query share a scale, and so do those of the support.
    """
    ways, shots = support.shape[0], min(support.shape[1], SHOWN)
    figure = Figure(figsize=(0.4 + 2.1 * (ways + 1), 0.8 + 2.2 * (1 + shots)), layout="constrained", dpi=110)
    axes = figure.subplots(1 + shots, ways + 1, squeeze=False)
    order = found.probabilities.argsort(descending=True).tolist()
    top = f"{_short(classes[order[0]], 40)}  (p = {float(found.probabilities[order[0]]):.3f})"
    figure.suptitle(f"told as {top}", fontsize=12)
    axes[0, 0].imshow(query.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0, 0].set_title("query", fontsize=9)
    scales = scale_of(found.query.sum(1).numpy()), scale_of(found.support.sum(2).numpy())
    for column, k in enumerate(order, 1):
        _overlay(axes[0, column], query, found.query[k], scales[0])
        axes[0, column].set_title(f"{_short(classes[k], 20)}\np = {float(found.probabilities[k]):.3f}", fontsize=9)
        for row in range(shots):
            _overlay(axes[1 + row, column], support[k, row], found.support[k, row], scales[1])
    left = "" if shots == support.shape[1] else f"\n(the first {shots} of {support.shape[1]})"
    axes[1, 0].text(0.5, 0.5, f"support of\neach class{left}", ha="center", va="center", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    words = "query: red speaks for the class rather than for the others, blue against it"
    figure.supxlabel(f"{words}; support: red raises its class's own score, blue lowers it", fontsize=8)
    with atomic(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary)


def _overlay(axis: Axes, image: Tensor, values: Tensor, scale: float) -> None:
    """Colours over a pale grey image (3, H, W), as strong as the map (3, H, W) is."""
    signed = values.sum(0).numpy()
    grey = np.repeat(image.mean(0).numpy()[..., None], 3, axis=2)
    weight = np.clip(np.abs(signed) / scale, 0, 1)[..., None] ** 0.7
    axis.imshow((1 - weight) * (0.35 + 0.6 * grey) + weight * diverging(signed, scale), interpolation="nearest")


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
