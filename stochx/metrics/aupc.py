"""AUPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stochx.engine.gradients import logits
from stochx.engine.ranking import channel_sum, fitting_regions, regions
from stochx.engine.seeds import Key, generator
from stochx.errors import InputError
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._perturb import altered, read_scores
from stochx.metrics._quadrature import simpson
from stochx.metrics._removal import better


@dataclass(frozen=True)
class AUPC:
    """Area under the perturbation curve: the fall of the logit as relevant regions are perturbed (Goh et al., 2020).

    Regions are the non-overlapping windows with the largest mean |channel sum|, in turn. In each, `draws` random
    patches are tried: the curve records their mean logit, and the patch whose logit is nearest to the median stays.
    The curve is divided by the first logit; its area follows Simpson's rule with a step of 1 per region. Undefined
    where the first logit is not positive. AUPCs of different networks are not comparable, as their logits are not.
    """

    examples: ClassVar[tuple[str, ...]] = (  # settings that are tested
        "regions=4,draws=3,kernel=2,read=probability",
    )

    kernel: int = 0  # side of a region in pixels; 0 means 1/15 of the image's shorter side
    regions: int = 30  # regions to perturb
    draws: int = 50  # random patches per region
    patch: Literal["uniform", "image"] = "uniform"  # uniform noise in [0, 1], or normal with the image's mean and std
    order: Literal["most", "least", "random"] = "most"  # perturb the most or the least relevant regions first
    read: Literal["logit", "probability", "margin"] = "logit"  # score that the curve records

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    reduction: ClassVar[str] = "mean of |channel sum| over windows"
    axis: ClassVar[str] = "regions perturbed"
    replaces: ClassVar[str] = "patch"

    @property
    def height(self) -> str:
        """Label of the curve's y axis."""
        return f"{self.read} / first {self.read}"

    def __post_init__(self) -> None:
        if self.kernel < 0:
            raise ValueError("kernel must not be negative")
        if self.regions < 1 or self.draws < 1:
            raise ValueError("regions and draws must be at least 1")

    @property
    def higher_is_better(self) -> bool | None:
        """Lower with the most relevant first, higher with the least; None for a random order."""
        return better(self.order, False)

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        x, target, keys = evidence.x, evidence.target, evidence.keys
        side = self.kernel or max(1, round(min(x.shape[2:]) / 15))
        room = fitting_regions(x.shape[2], x.shape[3], side)
        if room < self.regions:
            raise InputError(
                f"only {room} regions of {side} pixels are certain to fit into {x.shape[2]} x {x.shape[3]}",
                f"use `aupc:regions={room}` or a smaller kernel" if room else "use a smaller kernel",
            )
        # The authors' search leaves out the last row and column of windows; here every window counts.
        corners = regions(channel_sum(evidence.map), side, self.regions, keys, self.order)
        model, now, everyone = evidence.model, x, torch.arange(len(x))
        curve = [read_scores(model, logits(model, x), target, self.read)]
        for step in range(self.regions):
            perturb = partial(_patched, now, corners[:, step], self._patches(x, keys, step, side))
            values = altered(model, x, target, self.draws, perturb, self.read)
            curve.append(values.mean(1))
            # With an even number of draws two are equally near to the median: the earlier one stays, a random choice
            # that does not depend on rounding.
            stays = values.argsort(dim=1, stable=True)[:, (self.draws - 1) // 2 : self.draws // 2 + 1].amin(1)
            now = perturb(everyone.to(x.device), stays)
        heights = torch.stack(curve, 1)
        first = heights[:, :1]
        falling = heights / first.abs()
        undefined = (first <= 0).squeeze(1)
        return Score(
            value=simpson(falling).masked_fill(undefined, torch.nan),
            curve=falling,
            places=torch.arange(self.regions + 1, dtype=x.dtype),
            why=dict.fromkeys(undefined.nonzero().flatten().tolist(), f"the first {self.read} is not positive"),
            setting=f"{self.regions} regions of {side} px",
        )

    def _patches(self, x: Tensor, keys: Sequence[Key], step: int, side: int) -> Tensor:
        """Draw patches (N, draws, C, side, side), the same for every map of an image and for every position."""
        shape = self.draws, x.shape[1], side, side
        draw = torch.rand if self.patch == "uniform" else torch.randn
        sources = [generator(key, "patch", step, device=x.device) for key in keys]
        patches = torch.stack([draw(shape, generator=g, device=x.device, dtype=torch.float32) for g in sources]).to(x)
        if self.patch == "uniform":
            return patches
        # The authors divide these draws by 255 although they are in [0, 1] already: near-black patches, not followed.
        mean, std = (s[:, None, :, None, None] for s in (x.mean((2, 3)), x.std((2, 3), correction=0)))
        return (mean + std * patches).clamp(0, 1)


def _patched(now: Tensor, corner: Tensor, patches: Tensor, image: Tensor, draw: Tensor) -> Tensor:
    """Return the pixels `now[image]` (B, C, H, W) with patch `draw` at each image's `corner` (N, 2)."""
    pixels, side = now[image], torch.arange(patches.shape[-1], device=now.device)
    rows, columns = (corner[image, axis, None] + side for axis in (0, 1))
    row = torch.arange(len(image), device=now.device).view(-1, 1, 1, 1)
    channel = torch.arange(now.shape[1], device=now.device).view(1, -1, 1, 1)
    pixels[row, channel, rows[:, None, :, None], columns[:, None, None, :]] = patches[image, draw]
    return pixels
