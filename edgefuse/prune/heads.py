"""Prune inside an attention over packed heads: whole heads, then dimensions of the heads that are left.

Heads go first (Michel et al., arXiv:1905.10650). What the ratio asks for beyond whole heads is taken from the
dimensions of each head, those of queries and keys apart from those of values, as many of one as of the other, so that
`qkv` still packs [3, heads, head_width].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.prune.importance import Ranked, Slice
from edgefuse.prune.leaves import is_attention


@dataclass(frozen=True)
class Heads:
    """The units ranked inside one attention: its heads, and all dimensions of queries with keys, and of values."""

    attention: Any
    heads: Ranked
    keys: Ranked
    values: Ranked

    def keep(self, heads: int, head_width: int, scores: tuple[Tensor, Tensor, Tensor]) -> None:
        """Keep so many of the most important heads and so many dimensions in each, in place.

        Args:
            heads: how many.
            head_width: how many dimensions of each.
            scores: the importance of heads [heads], of dimensions of keys and of values [heads * head_width].
        """
        attention = self.attention
        chosen = largest(scores[0], heads)
        by_head = (score.reshape(attention.heads, attention.head_width) for score in scores[1:])
        keys, values = (_dimensions(score, chosen, head_width) for score in by_head)
        inner = attention.heads * attention.head_width
        rows = torch.cat([keys, keys + inner, values + 2 * inner])
        # The layer divides scores by the root of its head width, which changes: the queries make up for it.
        scale = torch.ones(len(rows), 1)
        scale[: len(keys)] = math.sqrt(head_width / attention.head_width)
        qkv, out = attention.qkv, attention.out
        qkv.weight = nn.Parameter(qkv.weight.detach()[rows] * scale)
        if qkv.bias is not None:
            qkv.bias = nn.Parameter(qkv.bias.detach()[rows] * scale[:, 0])
        out.weight = nn.Parameter(out.weight.detach()[:, values].contiguous())
        qkv.out_features, out.in_features = len(rows), len(values)
        attention.heads, attention.head_width = heads, head_width


def heads_of(module: nn.Module) -> list[Heads]:
    """Return the units that can be pruned inside the attentions of a module."""
    return [_heads(part) for part in module.modules() if is_attention(part)]


def kept_heads(heads: int, head_width: int, ratio: float, rounded: Callable[[int, float], int]) -> tuple[int, int]:
    """Return how many heads stay at a ratio, and how many dimensions in each.

    Args:
        heads: how many there are.
        head_width: dimensions of each.
        ratio: the fraction of all dimensions to remove.
        rounded: gives a width that is left of a width at a ratio.
    """
    left = max(1, math.ceil(heads * (1 - ratio) - 1e-9))
    rest = 1 - heads * (1 - ratio) / left
    return left, rounded(head_width, rest) if rest > 1e-9 else head_width


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest scores in ascending order; the first of equal ones."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def _dimensions(scores: Tensor, heads: Tensor, count: int) -> Tensor:
    """Return the `count` best dimensions of each head, as positions over all heads; scores: [heads, head_width]."""
    return torch.cat([largest(scores[head], count) + head * scores.shape[1] for head in heads])


def _heads(attention: Any) -> Heads:
    inner = attention.heads * attention.head_width
    every = torch.arange(inner)
    qkv, out = attention.qkv, attention.out

    def rows(part: int, *, reads: bool = False) -> tuple[Slice, ...]:
        parameters = [parameter for parameter in (qkv.weight, qkv.bias) if parameter is not None]
        return tuple(Slice(parameter, 0, every + part * inner, every, reads) for parameter in parameters)

    # What a query's dimension adds to the scores is linear in the rows that make it, so they stand for its reader.
    keys = Ranked(inner, (*rows(0, reads=True), *rows(1)))
    values = Ranked(inner, (*rows(2), Slice(out.weight, 1, every, every, reads=True)))
    whose = every // attention.head_width
    by_head = Slice(out.weight, 1, every, whose, reads=True)
    made = tuple(Slice(part.parameter, part.axis, part.positions, whose) for part in (*rows(0), *rows(1), *rows(2)))
    return Heads(attention, Ranked(attention.heads, (by_head, *made)), keys, values)
