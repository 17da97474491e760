"""torch's attention and transformer layers in plain operations, with every projection called as a layer.

`nn.MultiheadAttention` hands its weights to one function, in which neither hooks nor noise layers nor relevance reach
its projections. The twins here share its parameters, under the same names; `opening` puts them into a network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Linear):
    """A linear layer whose weights are parameters of the module around it, and have that module's names for them."""

    def __init__(self, owner: nn.Module, weight: str, part: int | None = None) -> None:
        """Use the owner's parameter `weight`, and its `in_proj_bias` or one third of it."""
        nn.Module.__init__(self)
        self._owner = (owner,)  # in a tuple, since an attribute that is a module would be a child
        self._weight, self._part = weight, part
        self.out_features, self.in_features = getattr(owner, weight).shape

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        weight: Tensor = getattr(self._owner[0], self._weight)
        return weight

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        bias: Tensor | None = self._owner[0].in_proj_bias  # type: ignore[assignment]
        return bias if bias is None or self._part is None else bias.chunk(3)[self._part]


class OpenAttention(nn.Module):
    """`nn.MultiheadAttention` in plain operations; the projections are its modules `in_proj` and `out_proj`.

    Where keys or values have another width than queries, `q_proj`, `k_proj` and `v_proj` stand for `in_proj`.
    """

    num_heads: int
    dropout: float
    batch_first: bool
    out_proj: nn.Module
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module

    def __init__(self, module: nn.MultiheadAttention) -> None:
        super().__init__()
        take_over(self, module)
        if module.in_proj_weight is not None:
            self.in_proj = Projection(self, "in_proj_weight")
        else:
            for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                self.add_module(name, Projection(self, f"{name}_weight", part))

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Return True for attention without extra keys and values."""
        return getattr(module, "bias_k", None) is None and not getattr(module, "add_zero_attn", False)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return softmax(q k^T / sqrt(d) + mask) v, projected, and the weights; arguments are those of the original.

        `is_causal` only says what kind of mask `attn_mask` is.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal needs attn_mask")
        q, k, v = (self._heads(part) for part in self._projected(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (q * (self.head_dim**-0.5)) @ k.transpose(-2, -1)
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, -1), dropout)
            mixed = weights @ v
            weights = weights.mean(-3) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        return out if self.batch_first else out.movedim(-2, 0), weights

    @property
    def head_dim(self) -> int:
        return int(self.out_proj.in_features) // self.num_heads  # type: ignore[arg-type]

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if "in_proj" not in self._modules:
            return self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if query is key and key is value:
            q, k, v = self.in_proj(query).chunk(3, -1)
            return q, k, v
        q, by_key = self.in_proj(query).chunk(3, -1)[0], self.in_proj(key).chunk(3, -1)
        by_value = by_key if value is key else self.in_proj(value).chunk(3, -1)
        return q, by_key[1], by_value[2]

    def _heads(self, x: Tensor) -> Tensor:
        """Return projected tokens as (N, heads, T, D / heads)."""
        x = x if self.batch_first else x.movedim(0, -2)
        return torch.unflatten(x, -1, (self.num_heads, self.head_dim)).transpose(-3, -2)

    def _mask(self, attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Return the sum of both masks, which broadcasts with (N, heads, T, S); None without masks."""
        masks = []
        if attention is not None:
            mask = _additive(attention, like)
            masks.append(torch.unflatten(mask, 0, (-1, self.num_heads)) if attention.dim() == 3 else mask)
        if padding is not None:
            masks.append(_additive(padding, like).unsqueeze(-2).unsqueeze(-2))
        return sum(masks[1:], masks[0]) if masks else None


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Return what a mask adds to the scores: a boolean one is true where attention is forbidden."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


class OpenEncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer` in plain operations."""

    def __init__(self, module: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        take_over(self, module)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return x + attention(norm(x)), then x + mlp(norm(x)); or with the norms after the sums."""
        layer: Any = self

        def attention(x: Tensor) -> Tensor:
            mixed: Tensor = layer.self_attn(
                x, x, x, src_key_padding_mask, need_weights=False, attn_mask=src_mask, is_causal=is_causal
            )[0]
            return layer.dropout1(mixed)  # type: ignore[no-any-return]

        def mlp(x: Tensor) -> Tensor:
            hidden = layer.dropout(layer.activation(layer.linear1(x)))
            return layer.dropout2(layer.linear2(hidden))  # type: ignore[no-any-return]

        if layer.norm_first:
            x = src + attention(layer.norm1(src))
            return x + mlp(layer.norm2(x))
        x = layer.norm1(src + attention(src))
        return layer.norm2(x + mlp(x))  # type: ignore[no-any-return]


class OpenEncoder(nn.Module):
    """`nn.TransformerEncoder` without its shortcut for padded sequences."""

    def __init__(self, module: nn.TransformerEncoder) -> None:
        super().__init__()
        take_over(self, module)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return the tokens after all layers, and after the final norm if there is one."""
        encoder: Any = self
        for layer in encoder.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
        return src if encoder.norm is None else encoder.norm(src)


def take_over(twin: nn.Module, module: nn.Module) -> None:
    """Give `twin` the attributes of `module`: settings, hooks, and the same parameters, buffers and children."""
    own = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}
    vars(twin).update(own)
