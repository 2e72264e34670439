"""What can be narrowed inside a stage, and narrowing it: widths of channels and heads of attention."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgefuse.prune.attention import Attention, pin_whole
from edgefuse.prune.heads import FoundHeads, Heads, heads_of, largest
from edgefuse.prune.importance import Ranked
from edgefuse.prune.multihead import opened
from edgefuse.prune.recognition import attentions_of
from edgefuse.prune.widths import Kept, Width, widths_of
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.stage import TorchStage

_MULTIPLE = 8
"""Widths that kernels with vector registers of 8 floats or 32 bytes fill."""

_WIDE = 4 * _MULTIPLE
"""From this width on a kept width is rounded to a multiple."""

_SIZES = 3
_BATCH = 3


@dataclass(frozen=True)
class Insides:
    """A copy of a stage's module that can be narrowed, and what in it can.

    Attributes:
        stage: with the copy.
        widths: of channels.
        heads: of attentions.
        kept: what stays, with the reason.
    """

    stage: TorchStage
    widths: tuple[Width, ...]
    heads: tuple[Heads | FoundHeads, ...]
    kept: tuple[Kept, ...]

    @property
    def parts(self) -> tuple[Width | Heads | FoundHeads, ...]:
        """All that can be narrowed, widths first."""
        return (*self.widths, *self.heads)


def insides_of(stage: TorchStage, attentions: Sequence[Attention]) -> Insides:
    """Return a copy of a stage with what can be narrowed inside.

    Args:
        stage: which stays as it is.
        attentions: that `found_attentions` gave for it.

    Raises:
        PruneError: if the module cannot be traced.
    """
    module = copy.deepcopy(stage.module)
    opened(module)
    pin_whole(module, attentions)
    copied = replace(stage, module=module)
    own = heads_of(module)
    makers = {name for attention in attentions for name in attention.rows}
    widths, kept = widths_of(copied, makers, {attention.out for attention in attentions})
    found = [FoundHeads(attention.home, module, attention) for attention in attentions if not attention.reason]
    stuck = [Kept(a.home, "heads", a.heads, a.reason) for a in attentions if a.reason]
    return Insides(copied, tuple(widths), (*own, *found), (*kept, *stuck))


def batches_of(stage: TorchStage) -> list[tuple[Tensor, ...]]:
    """Return inputs of a stage's module: at several sizes, and several at once."""
    feeds = list(example_feeds(stage, count=_SIZES))
    wide = list(example_feeds(stage, count=_BATCH, fixed=True))
    ports = [port.tensor.name for port in stage.spec.inputs]
    batches = [tuple(torch.tensor(feed[name]) for name in ports) for feed in feeds]
    return [*batches, tuple(torch.cat([torch.tensor(feed[name]) for feed in wide]) for name in ports)]


def found_attentions(stage: TorchStage) -> list[Attention]:
    """Return the attentions of a stage that are found by what they compute: all but those that edgefuse knows."""
    module = copy.deepcopy(stage.module).eval().requires_grad_()
    opened(module)
    known = {id(part) for heads in heads_of(module) for part in heads.attention.modules()}
    names = {name for name, part in module.named_modules() if id(part) in known}
    found = attentions_of(replace(stage, module=module), batches_of(stage))
    return [attention for attention in found if not attention.layers & names]


def kinds_of(part: Width | Heads | FoundHeads) -> list[Ranked]:
    """Return what is ranked inside a part."""
    return [part.ranked] if isinstance(part, Width) else part.kinds


def narrow_parts(inside: Insides, scores: Sequence[Sequence[Tensor]], numbers: Sequence[int], ratio: float) -> None:
    """Narrow some parts of a copy, in place.

    Args:
        inside: the copy.
        scores: for each of its parts the importance of each of `kinds_of`.
        numbers: which parts.
        ratio: the share of each that is removed.
    """
    chosen = [(inside.parts[number], scores[number]) for number in numbers]
    for part, by_kind in chosen:
        if not isinstance(part, Width):
            part.narrow(ratio, by_kind, rounded)
    for part, by_kind in chosen:
        if isinstance(part, Width):
            keep = set(largest(by_kind[0], rounded(len(part.units), ratio)).tolist())
            gone = [unit for unit in range(len(part.units)) if unit not in keep]
            if gone:
                part.remove(gone)


def rounded(width: int, ratio: float) -> int:
    """Return how much of a width is left at a ratio: a multiple of 8 where the width is 32 or more, at least 1."""
    if ratio <= 0:
        return width
    target = width * (1 - ratio)
    if width < _WIDE:
        return max(1, math.floor(target + 0.5))
    return min(width, max(_MULTIPLE, math.floor(target / _MULTIPLE + 0.5) * _MULTIPLE))
