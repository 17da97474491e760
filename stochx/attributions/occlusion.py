"""Occlusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stochx.attributions import Explanation
from stochx.engine.baselines import BASELINES
from stochx.engine.gradients import scores
from stochx.engine.seeds import Key


@dataclass(frozen=True)
class Occlusion:
    """The drop of the logit when a window is covered (Zeiler & Fergus, 2014).

    Each pixel gets the mean drop over the windows that cover it.
    """

    window: int = 0  # side of the square window in pixels; 0 means 1/7 of the image's shorter side
    stride: int = 0  # step between windows in pixels; 0 means half a window
    baseline: Literal["black", "white", "mean", "blur"] = "mean"  # content of a covered window

    def __post_init__(self) -> None:
        if self.window < 0 or self.stride < 0:
            raise ValueError("window and stride must not be negative")
        if self.window and self.stride > self.window:
            raise ValueError("stride must not exceed window, or some pixels are never covered")

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
        height, width = x.shape[2:]
        window = self.window or max(1, round(min(height, width) / 7))
        stride = self.stride or max(1, window // 2)
        if window > min(height, width):
            raise ValueError(f"window={window} is larger than the image of {height} x {width}")
        cover = _windows(height, width, window, stride).to(x.device)  # (W, H, W) booleans
        full, empty = scores(model, x, target), BASELINES[self.baseline](x)
        total = x.new_zeros(len(x), height, width)
        for windows in torch.split(cover, max(1, CHUNK // len(x))):
            covered = torch.where(windows[None, :, None], empty[:, None], x[:, None]).flatten(0, 1)
            drop = full[:, None] - scores(model, covered, target.repeat_interleave(len(windows))).view(len(x), -1)
            total += torch.einsum("nw,whv->nhv", drop, windows.to(x))
        relevance = (total / cover.sum(0)).unsqueeze(1)
        return Explanation(relevance, used=torch.full((len(x),), len(cover)))


CHUNK = 256  # covered images in memory at once


def _windows(height: int, width: int, window: int, stride: int) -> Tensor:
    """Return all windows as masks (W, height, width); the last of a row or column is flush with the border."""

    def starts(side: int) -> list[int]:
        return sorted({*range(0, side - window, stride), side - window})

    places = [(i, j) for i in starts(height) for j in starts(width)]
    cover = torch.zeros(len(places), height, width, dtype=torch.bool)
    for k, (i, j) in enumerate(places):
        cover[k, i : i + window, j : j + window] = True
    return cover
