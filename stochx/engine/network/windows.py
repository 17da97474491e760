"""torchvision's Swin transformers in plain operations: attention in shifted windows, and the merging of patches.

No operation here depends on the size of the image by a choice, so that a trace holds for all sizes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.engine.network.attention import take_over

FORBIDDEN = -100.0  # what torchvision adds to the scores of two tokens of different regions


class OpenWindowAttention(nn.Module):
    """`ShiftedWindowAttention`, of both versions, which calls `qkv` and `proj` as layers."""

    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    relative_position_index: Tensor
    relative_position_bias_table: Tensor  # of version 1
    relative_coords_table: Tensor  # of version 2, as the following
    cpb_mlp: nn.Module
    logit_scale: Tensor

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        take_over(self, module)

    def forward(self, x: Tensor) -> Tensor:
        """Return attention within windows, for maps (N, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        padded = x.shape[1], x.shape[2]
        shift = [0, 0]
        if sum(self.shift_size):
            # a window as large as the maps needs no shift
            shift = [s * (size > w) for s, size, w in zip(self.shift_size, padded, self.window_size, strict=True)]
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        q, k, v = self._projected(_windows(x, rows, columns))
        scores = self._scores(q, k) + self._position_bias()
        if sum(self.shift_size):
            mask = self._mask(x, shift)
            scores = (torch.unflatten(scores, 0, (-1, mask.shape[0])) + mask.unsqueeze(1)).flatten(0, 1)
        weights = F.dropout(torch.softmax(scores, -1), self.attention_dropout, self.training)
        mixed = self.proj((weights @ v).transpose(1, 2).flatten(2))
        mixed = F.dropout(mixed, self.dropout, self.training)
        x = mixed.reshape(-1, padded[0] // rows, padded[1] // columns, rows, columns, mixed.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        if sum(self.shift_size):
            x = torch.roll(x, (shift[0], shift[1]), (1, 2))
        return x[:, :height, :width]

    def _projected(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (N * windows, heads, tokens, D) of tokens (N * windows, tokens, C)."""
        q, k, v = torch.unflatten(self.qkv(windows), -1, (3, self.num_heads, -1)).unbind(-3)
        if hasattr(self, "logit_scale") and (bias := self.qkv.bias) is not None:
            k = k - bias.chunk(3)[1].reshape(self.num_heads, -1)  # version 2 has no bias of keys
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        if hasattr(self, "logit_scale"):
            scale = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
            cosines: Tensor = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            return cosines * scale
        scaled: Tensor = q * (self.proj.in_features // self.num_heads) ** -0.5
        return scaled @ k.transpose(-2, -1)

    def _position_bias(self) -> Tensor:
        """Return what the relative positions of two tokens add to their score, (1, heads, tokens, tokens)."""
        if hasattr(self, "cpb_mlp"):
            table = self.cpb_mlp(self.relative_coords_table).reshape(-1, self.num_heads)
        else:
            table = self.relative_position_bias_table
        tokens = self.window_size[0] * self.window_size[1]
        bias: Tensor = table[self.relative_position_index].reshape(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        return 16 * torch.sigmoid(bias) if hasattr(self, "cpb_mlp") else bias

    def _mask(self, x: Tensor, shift: list[int]) -> Tensor:
        """Return what forbids attention across the seam of the shifted maps, (windows, tokens, tokens)."""
        height, width = (
            _region(x.new_ones(x.shape[axis], dtype=torch.int64), window, moved)
            for axis, window, moved in zip((1, 2), self.window_size, shift, strict=True)
        )
        regions = (3 * height.unsqueeze(1) + width).unsqueeze(0).unsqueeze(-1)
        ids = _windows(regions, *self.window_size).squeeze(-1)
        return (ids.unsqueeze(1) != ids.unsqueeze(2)).to(x.dtype) * FORBIDDEN


def _region(ones: Tensor, window: int, shift: int) -> Tensor:
    """Return the region, 0 to 2, of each place along an axis: before the last window, in it, and moved across."""
    to_the_end = ones.flip(0).cumsum(0).flip(0)
    return (to_the_end <= window).to(torch.int64) + (to_the_end <= shift).to(torch.int64)


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return maps (N, H, W, C) as tokens of windows, (N * windows, rows * columns, C)."""
    split = x.reshape(x.shape[0], x.shape[1] // rows, rows, x.shape[2] // columns, columns, x.shape[3])
    return split.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)


class OpenPatchMerging(nn.Module):
    """`PatchMerging`, of both versions: four neighbours become one, of twice the width."""

    norm: nn.Module
    reduction: nn.Linear

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        take_over(self, module)
        self.norm_first = not type(module).__name__.endswith("V2")

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., H / 2, W / 2, 2 C) of maps (..., H, W, C)."""
        x = F.pad(x, (0, 0, 0, x.shape[-2] % 2, 0, x.shape[-3] % 2))
        corners = [x[..., row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        merged = torch.cat(corners, -1)
        out: Tensor = self.reduction(self.norm(merged)) if self.norm_first else self.norm(self.reduction(merged))
        return out
