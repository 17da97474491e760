"""Files of a few-shot explanation: raw maps as .npz, and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stochx.reports.arrays import save_arrays
from stochx.reports.colours import overlay, scale_of
from stochx.reports.figure import save_figure, shorten
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


def draw_matches(path: Path, matched: Matched, query: Tensor, support: Tensor, classes: Sequence[str]) -> None:
    """Draw for each class the evidence in the query for it (red) or against it, above that in its support.

    query (3, H, W), support (N, K, 3, H, W). All maps of the query share a scale, and so do those of the support.
    """
    ways, shots = support.shape[0], min(support.shape[1], SHOWN)
    figure = Figure(figsize=(0.4 + 2.1 * (ways + 1), 0.8 + 2.2 * (1 + shots)), layout="constrained", dpi=110)
    axes = figure.subplots(1 + shots, ways + 1, squeeze=False)
    order = matched.probabilities.argsort(descending=True).tolist()
    top = f"{shorten(classes[order[0]], 40)}  (p = {float(matched.probabilities[order[0]]):.3f})"
    figure.suptitle(f"predicted: {top}", fontsize=12)
    axes[0, 0].imshow(query.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0, 0].set_title("query", fontsize=9)
    scales = scale_of(matched.query.sum(1).numpy()), scale_of(matched.support.sum(2).numpy())
    for column, k in enumerate(order, 1):
        _draw_overlay(axes[0, column], query, matched.query[k], scales[0])
        axes[0, column].set_title(f"{shorten(classes[k], 20)}\np = {float(matched.probabilities[k]):.3f}", fontsize=9)
        for row in range(shots):
            _draw_overlay(axes[1 + row, column], support[k, row], matched.support[k, row], scales[1])
    left = "" if shots == support.shape[1] else f"\n(the first {shots} of {support.shape[1]})"
    axes[1, 0].text(0.5, 0.5, f"support of\neach class{left}", ha="center", va="center", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    words = "query: red speaks for the class rather than for the others, blue against it"
    figure.supxlabel(f"{words}; support: red raises its class's own score, blue lowers it", fontsize=8)
    save_figure(path, figure)


def _draw_overlay(axis: Axes, image: Tensor, relevance: Tensor, scale: float) -> None:
    """Draw a map (3, H, W), summed over channels, over its image (3, H, W)."""
    colours = overlay(image.permute(1, 2, 0).numpy(), relevance.sum(0).numpy(), scale)
    axis.imshow(colours, interpolation="nearest")
