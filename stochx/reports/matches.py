"""Files of a few-shot explanation: raw maps as .npz, and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stochx.engine.io.images import to_picture
from stochx.reports.arrays import save_arrays
from stochx.reports.colours import overlay, scale_of
from stochx.reports.figure import (
    FAINT,
    OWN,
    TICK,
    TITLE,
    as_label,
    hide_frame,
    new_figure,
    own_style,
    save_figure,
    wrapped_label,
)
from stochx.settings.figures import Look
from stochx.tasks.explain_fewshot import Matched

SHOWN = 3  # support images of a class


def save_matches(path: Path, matched: Matched, classes: Sequence[str]) -> None:
    """Write `query` (N, 3, H, W), `support` (N, K, 3, H, W), `probabilities`, `evidence` and `classes` as .npz."""
    tensors = {
        "query": matched.query,
        "support": matched.support,
        "probabilities": matched.probabilities,
        "evidence": matched.evidence,
    }
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    save_arrays(path, {**arrays, "classes": np.array(classes)})


def draw_matches(
    path: Path, matched: Matched, query: Tensor, support: Tensor, classes: Sequence[str], look: Look = OWN
) -> None:
    """Draw for each class the evidence in the query for it (red) or against it, above that in its support.

    query (3, H, W), support (N, K, 3, H, W). All maps of the query share a scale, and so do those of the support.
    """
    save_figure(path, _make_figure(matched, query, support, classes), look)


@own_style()
def _make_figure(matched: Matched, query: Tensor, support: Tensor, classes: Sequence[str]) -> Figure:
    ways, shots = support.shape[0], min(support.shape[1], SHOWN)
    figure = new_figure(0.5 + 1.7 * (ways + 1), 0.9 + 1.75 * (1 + shots))
    axes = figure.subplots(1 + shots, ways + 1, squeeze=False)
    order = matched.probabilities.argsort(descending=True).tolist()
    top = f"{as_label(classes[order[0]], 40)} (p = {float(matched.probabilities[order[0]]):.3f})"
    figure.suptitle(f"predicted: {top}", fontsize=TITLE + 2)
    axes[0, 0].imshow(to_picture(query), interpolation="nearest")
    axes[0, 0].set_title("query")
    scales = scale_of(matched.query.sum(1).numpy()), scale_of(matched.support.sum(2).numpy())
    for column, k in enumerate(order, 1):
        _draw_overlay(axes[0, column], query, matched.query[k], scales[0])
        name = wrapped_label(classes[k], 20, 2)
        axes[0, column].set_title(f"{name}\np = {float(matched.probabilities[k]):.3f}")
        for row in range(shots):
            _draw_overlay(axes[1 + row, column], support[k, row], matched.support[k, row], scales[1])
    for axis in axes.flat:
        hide_frame(axis)
    axes[0, 1].set_ylabel("evidence in the query")
    for row in range(shots):
        axes[1 + row, 1].set_ylabel(f"in support image {row + 1}")
    left = "" if shots == support.shape[1] else f" (the first {shots} of {support.shape[1]} images)"
    words = "query: red speaks for the class rather than for the others, blue against it"
    more = f"support{left}: red raises the score of its own class, blue lowers it"
    figure.supxlabel(f"{words}\n{more}", fontsize=TICK, color=FAINT)
    return figure


def _draw_overlay(axis: Axes, image: Tensor, relevance: Tensor, scale: float) -> None:
    """Draw a map (3, H, W), summed over channels, over its image (3, H, W)."""
    colours = overlay(to_picture(image), relevance.sum(0).numpy(), scale)
    axis.imshow(colours, interpolation="nearest")
