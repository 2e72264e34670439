"""`nn.MultiheadAttention` whose heads are fewer than its tokens are wide.

Torch's own takes the width of its heads from the width of its tokens. A module becomes one of this class in place: its
parameters keep their names, and it answers as before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Multihead(nn.MultiheadAttention):
    """Multi-head attention over packed projections, spelled out.

    Attributes:
        heads: how many heads there are.
        head_width: dimensions of each.
    """

    heads: int
    head_width: int

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
        """Attend as `nn.MultiheadAttention` does.

        Args:
            query: [B, L, width], or [L, B, width] unless `batch_first`, or without a batch [L, width].
            key: the same for S steps.
            value: the same for S steps.
            key_padding_mask: [B, S], True (or an amount to add) where a step does not count.
            need_weights: whether to return the weights.
            attn_mask: [L, S] or [B * heads, L, S], True (or an amount to add) where a step is not looked at.
            average_attn_weights: whether weights are [B, L, S] instead of [B, heads, L, S].
            is_causal: a hint that `attn_mask` is causal; it is not needed.
        """
        if query.dim() == 2:
            axis = 0 if self.batch_first else 1
            known = {id(x): x.unsqueeze(axis) for x in (query, key, value)}
            whole = known[id(query)], known[id(key)], known[id(value)]
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            y, shown = self.forward(*whole, padding, need_weights, attn_mask, average_attn_weights)
            return y.squeeze(axis), None if shown is None else shown.squeeze(0)
        q, k, v = self._projected(query, key, value)
        scores = (q * (1 / math.sqrt(self.head_width))) @ k.transpose(-2, -1)
        for mask in (_over_heads(attn_mask, len(q)), _over_steps(key_padding_mask)):
            if mask is not None:
                scores = scores + _added(mask, scores)
        weights = functional.dropout(torch.softmax(scores, dim=-1), self.dropout, self.training)
        y = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        y = y if self.batch_first else y.transpose(0, 1)
        return y, None if not need_weights else weights.mean(dim=1) if average_attn_weights else weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values [B, heads, steps, head_width], by one product where they have one input."""
        weight, bias, sizes = self.in_proj_weight, self.in_proj_bias, (self.heads, self.head_width)
        if query is key and key is value:
            x = query if self.batch_first else query.transpose(0, 1)
            packed = functional.linear(x, weight, bias).reshape(*x.shape[:-1], 3, *sizes).permute(2, 0, 3, 1, 4)
            return packed[0], packed[1], packed[2]
        biases: Any = (None, None, None) if bias is None else bias.chunk(3)
        parts = zip((query, key, value), weight.chunk(3), biases, strict=True)
        made = (functional.linear(x if self.batch_first else x.transpose(0, 1), w, b) for x, w, b in parts)
        return tuple(x.reshape(*x.shape[:-1], *sizes).transpose(1, 2) for x in made)


def _over_heads(mask: Tensor | None, batch: int) -> Tensor | None:
    return mask if mask is None or mask.dim() == 2 else mask.reshape(batch, -1, *mask.shape[1:])


def _over_steps(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :]


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))


def is_packed(module: nn.Module) -> bool:
    """Say whether a module is `nn.MultiheadAttention` with one packed projection and nothing added to its steps."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
        and type(module) in (nn.MultiheadAttention, Multihead)
    )


def opened(module: nn.Module) -> None:
    """Make a `Multihead` of every packed `nn.MultiheadAttention` within a module, in place."""
    for part in list(module.modules()):
        if is_packed(part):
            open_one(part)
    without_nesting(module)


def without_nesting(module: nn.Module) -> None:
    """Keep torch's encoders from packing what is masked, in place: opened layers do not take it so."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder) and any(isinstance(one, Multihead) for one in part.modules()):
            part.use_nested_tensor = False


def open_one(module: nn.Module) -> None:
    """Make a `Multihead` of a packed `nn.MultiheadAttention`, in place."""
    found: Any = module
    if not isinstance(module, Multihead):
        found.__class__ = Multihead
        found.heads, found.head_width = found.num_heads, found.head_dim
        # Torch's encoder layers compute the whole layer at once, by their own rules, where this is True.
        found._qkv_same_embed_dim = False
