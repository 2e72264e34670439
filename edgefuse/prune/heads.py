"""Prune inside an attention over packed heads: whole heads, then dimensions of the heads that are left.

Heads go first (Michel et al., arXiv:1905.10650). What the ratio asks for beyond whole heads is taken from the
dimensions of each head, those of queries and keys apart from those of values, as many of one as of the other, so that
`qkv` still packs [3, heads, head_width].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.prune.attention import Attention
from edgefuse.prune.importance import Ranked, Slice
from edgefuse.prune.leaves import is_attention
from edgefuse.prune.multihead import Multihead


@dataclass(frozen=True)
class Heads:
    """The units ranked inside one attention: its heads, and all dimensions of queries with keys, and of values."""

    name: str
    attention: Any
    heads: Ranked
    keys: Ranked
    values: Ranked

    @property
    def count(self) -> int:
        """The number of heads."""
        return int(self.attention.heads)

    @property
    def kinds(self) -> list[Ranked]:
        """What is ranked."""
        return [self.heads, self.keys, self.values]

    def narrow(self, ratio: float, scores: Sequence[Tensor], rounded: Callable[[int, float], int]) -> None:
        """Remove a share of all dimensions, whole heads first, in place.

        Args:
            ratio: the share.
            scores: the importance of each of `kinds`.
            rounded: gives a width that is left of a width at a ratio.
        """
        heads, head_width = self.attention.heads, self.attention.head_width
        self.keep(*kept_heads(heads, head_width, ratio, rounded), (scores[0], scores[1], scores[2]))

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
        weight, bias, out = _parts(attention)
        _set(attention, weight, rows, scale)
        if bias is not None:
            _set(attention, bias, rows, scale[:, 0])
        out.weight = nn.Parameter(out.weight.detach()[:, values].contiguous())
        out.in_features = len(values)
        if not isinstance(attention, Multihead):
            attention.qkv.out_features = len(rows)
        attention.heads, attention.head_width = heads, head_width


def heads_of(module: nn.Module) -> list[Heads]:
    """Return the units that can be pruned inside the attentions of a module."""
    return [
        _heads(name, part) for name, part in module.named_modules() if is_attention(part) or isinstance(part, Multihead)
    ]


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


@dataclass(frozen=True)
class FoundHeads:
    """The heads of an attention that was found by what its forward pass computes; they go whole.

    Attributes:
        name: of the module that it lies in.
        module: the stage's.
        attention: what was found.
    """

    name: str
    module: nn.Module
    attention: Attention

    @property
    def count(self) -> int:
        """The number of heads."""
        return self.attention.heads

    @property
    def kinds(self) -> list[Ranked]:
        """What is ranked."""
        count, slices = self.attention.heads, []
        for name, rows in self.attention.rows.items():
            layer: Any = self.module.get_submodule(name)
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    slices.append(Slice(parameter, 0, *_owned(rows)))
        out: Any = self.module.get_submodule(self.attention.out)
        return [Ranked(count, (*slices, Slice(out.weight, 1, *_owned(self.attention.columns), reads=True)))]

    def narrow(self, ratio: float, scores: Sequence[Tensor], rounded: Callable[[int, float], int]) -> None:
        """Remove a share of the heads, rounded down to whole ones, in place.

        Args:
            ratio: the share.
            scores: the importance of each of `kinds`.
            rounded: as heads go whole, it is not asked.
        """
        left, _ = kept_heads(self.attention.heads, 1, ratio, lambda width, _: width)
        self.attention.narrow(self.module, largest(scores[0], left).tolist())


def _owned(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the positions of all parts, and whose each is."""
    owners = [torch.full((len(part),), number, dtype=torch.int64) for number, part in enumerate(parts)]
    return torch.cat(list(parts)), torch.cat(owners)


def _parts(attention: Any) -> tuple[nn.Parameter, nn.Parameter | None, Any]:
    """Return the packed projection's weight and bias, and the layer that reads."""
    if isinstance(attention, Multihead):
        weight: Any = attention.in_proj_weight
        return weight, attention.in_proj_bias, attention.out_proj
    return attention.qkv.weight, attention.qkv.bias, attention.out


def _set(attention: Any, old: nn.Parameter, rows: Tensor, scale: Tensor) -> None:
    """Put some rows of a packed parameter, scaled, in its place."""
    owner = attention if isinstance(attention, Multihead) else attention.qkv
    name = next(name for name, parameter in owner.named_parameters(recurse=False) if parameter is old)
    setattr(owner, name, nn.Parameter(old.detach()[rows] * scale))


def _heads(name: str, attention: Any) -> Heads:
    inner = attention.heads * attention.head_width
    every = torch.arange(inner)
    weight, bias, out = _parts(attention)

    def rows(part: int, *, reads: bool = False) -> tuple[Slice, ...]:
        parameters = [parameter for parameter in (weight, bias) if parameter is not None]
        return tuple(Slice(parameter, 0, every + part * inner, every, reads) for parameter in parameters)

    # What a query's dimension adds to the scores is linear in the rows that make it, so they stand for its reader.
    keys = Ranked(inner, (*rows(0, reads=True), *rows(1)))
    values = Ranked(inner, (*rows(2), Slice(out.weight, 1, every, every, reads=True)))
    whose = every // attention.head_width
    by_head = Slice(out.weight, 1, every, whose, reads=True)
    made = tuple(Slice(part.parameter, part.axis, part.positions, whose) for part in (*rows(0), *rows(1), *rows(2)))
    return Heads(name, attention, Ranked(attention.heads, (by_head, *made)), keys, values)
