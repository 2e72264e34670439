"""An attention whose heads are rows of linear layers, and what removing some of them means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.prune.sizes import Pin, Pins, pin, rounds_of

FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError)
"""What a forward pass raises when sizes do not fit together."""

Sizes = dict[int, tuple[tuple[str, Any], ...]]
"""The kind of each size of a call, by its number: `fixed`, `given`, `heads` (goes with their number), `scaled`."""


@dataclass(frozen=True)
class Attention:
    """An attention whose heads are linear layers' rows.

    Attributes:
        home: the name of the module whose forward pass holds all of it.
        heads: how many.
        rows: by the name of each layer that makes queries, keys or values: the rows of each head.
        out: the name of the layer that reads the result.
        columns: of that layer, those of each head.
        sizes: what the sizes in the home's forward pass go with.
        reason: why no head can be removed; empty if they can be.
    """

    home: str
    heads: int
    rows: dict[str, tuple[Tensor, ...]]
    out: str
    columns: tuple[Tensor, ...]
    sizes: Sizes = field(default_factory=dict)
    reason: str = ""

    @property
    def layers(self) -> set[str]:
        """The names of its linear layers."""
        return {*self.rows, self.out}

    def but(self, sizes: Sizes, reason: str = "") -> Attention:
        """Return the same attention with other sizes, and why no head can be removed."""
        return replace(self, sizes=sizes, reason=reason)

    def pins(self, left: int) -> Pins:
        """Return the sizes that go with so many heads."""
        return {number: tuple(self._pin(kind, left) for kind in kinds) for number, kinds in self.sizes.items()}

    def _pin(self, kind: tuple[str, Any], left: int) -> Pin:
        name, size = kind
        if name == "heads":
            return int(size) * left // self.heads
        if name == "scaled":
            return left, self.heads
        return size if name == "fixed" else None

    def narrow(self, module: nn.Module, kept: Sequence[int]) -> None:
        """Keep some heads only, in place.

        Args:
            module: whose names these are.
            kept: numbers of heads, ascending.
        """
        gone = [head for head in range(self.heads) if head not in set(kept)]
        for name, rows in self.rows.items():
            layer: Any = module.get_submodule(name)
            left = _without(len(layer.weight), [rows[head] for head in gone])
            layer.weight = nn.Parameter(layer.weight.detach()[left].contiguous())
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias.detach()[left].contiguous())
            layer.out_features = len(left)
        out: Any = module.get_submodule(self.out)
        left = _without(out.weight.shape[1], [self.columns[head] for head in gone])
        out.weight = nn.Parameter(out.weight.detach()[:, left].contiguous())
        out.in_features = len(left)
        if self.sizes:
            home = module.get_submodule(self.home)
            latest, *before = rounds_of(home)
            pin(home, {**latest, **self.pins(len(kept))}, *before)


def pin_whole(module: nn.Module, attentions: Sequence[Attention]) -> None:
    """Begin a round of pins with the sizes that attentions have with all of their heads, in place.

    Their insides then no longer depend on the width of what goes in and out.
    """
    by_home: dict[str, dict[int, tuple[Pin, ...]]] = {}
    for attention in attentions:
        if attention.sizes:
            by_home.setdefault(attention.home, {}).update(attention.pins(attention.heads))
    for name, pins in by_home.items():
        home = module.get_submodule(name)
        pin(home, pins, *rounds_of(home))


def _without(count: int, gone: Sequence[Tensor]) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    for positions in gone:
        left[positions] = False
    return left.nonzero().flatten()
