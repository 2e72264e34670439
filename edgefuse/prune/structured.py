"""Narrow a stage: channels of convolutions, hidden units, heads, the residual width, recurrent hidden sizes.

Every width inside the stage loses the same fraction of its channels, ranked within that width; its inputs and outputs
keep their shapes. A fraction r removed leaves about (1 - r)^2 of the multiplications.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable

import torch
from torch import nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.prune.heads import heads_of, kept_heads, largest
from edgefuse.prune.importance import IMPORTANCES, rank
from edgefuse.prune.pruner import Examples, check, nothing_to_prune
from edgefuse.prune.widths import Width, widths_of
from edgefuse.stages.examples import call_torch, example_feeds
from edgefuse.stages.stage import TorchStage

_log = logging.getLogger(__name__)

_MULTIPLE = 8
"""Widths that kernels with vector registers of 8 floats or 32 bytes fill."""

_WIDE = 4 * _MULTIPLE
"""From this width on a kept width is rounded to a multiple."""


class StructuredPruner:
    """Remove a fraction of every width inside a stage, by the dependency graph of Torch-Pruning (arXiv:2301.12900)."""

    name = "structured"
    gradual = True

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a narrower copy with the same interfaces.

        Raises:
            PruneError: the stage has no inner width, cannot be traced, or does not run with a smaller one.
        """
        expected = "a width between two layers that no interface shares"
        return narrowed(stage, step, examples, lambda width: True, expected)


def narrowed(
    stage: TorchStage, step: PruningStep, examples: Examples, chosen: Callable[[Width], bool], expected: str
) -> nn.Module:
    """Return a copy of a stage's module with smaller attentions, and the chosen ones of its widths smaller.

    Args:
        stage: what is narrowed; it stays as it is.
        step: by how much, and ranked by what.
        examples: for the ranking.
        chosen: says of a width whether it may shrink.
        expected: what a stage must hold, for the error.

    Raises:
        PruneError: nothing may shrink, the stage cannot be traced, or it does not run with smaller widths.
    """
    check(step, IMPORTANCES)
    module = copy.deepcopy(stage.module)
    smaller = TorchStage(stage.spec, module)
    widths = [width for width in widths_of(smaller) if chosen(width)]
    attentions = heads_of(module)
    if not widths and not attentions:
        raise nothing_to_prune(stage, step, expected)
    if step.ratio == 0:
        return module
    kinds = [width.ranked for width in widths]
    for attention in attentions:
        kinds += [attention.heads, attention.keys, attention.values]
    scores = rank(step.importance, module, kinds, examples)
    inner = scores[len(widths) :]
    for number, attention in enumerate(attentions):
        heads, head_width = attention.attention.heads, attention.attention.head_width
        by_kind = (inner[3 * number], inner[3 * number + 1], inner[3 * number + 2])
        attention.keep(*kept_heads(heads, head_width, step.ratio, rounded), by_kind)
    for width, score in zip(widths, scores, strict=False):
        keep = set(largest(score, rounded(len(width.units), step.ratio)).tolist())
        gone = [unit for unit in range(len(width.units)) if unit not in keep]
        if gone:
            width.remove(gone)
    _check_shapes(stage, smaller)
    return module


def rounded(width: int, ratio: float) -> int:
    """Return how much of a width is left at a ratio: a multiple of 8 where the width is 32 or more, at least 1."""
    if ratio <= 0:
        return width
    target = width * (1 - ratio)
    if width < _WIDE:
        return max(1, math.floor(target + 0.5))
    return min(width, max(_MULTIPLE, math.floor(target / _MULTIPLE + 0.5) * _MULTIPLE))


def _check_shapes(stage: TorchStage, smaller: TorchStage) -> None:
    """Run both modules once and compare the shapes of their outputs."""
    feeds = next(example_feeds(stage))
    expected = {name: value.shape for name, value in call_torch(stage, feeds).items()}
    try:
        with torch.no_grad():
            got = {name: value.shape for name, value in call_torch(smaller, feeds).items()}
    except (RuntimeError, ValueError, IndexError) as error:
        raise PruneError(
            f"the stage '{stage.spec.name}' does not run with smaller widths inside",
            got=str(error).strip().split("\n")[0],
            fix="take sizes from tensors and layers in its forward pass instead of constants",
        ) from error
    if got != expected:
        raise PruneError(
            f"pruning changed the outputs of the stage '{stage.spec.name}'",
            got=", ".join(f"{name} {list(shape)}" for name, shape in got.items()),
            expected=", ".join(f"{name} {list(shape)}" for name, shape in expected.items()),
            fix="take sizes from tensors and layers in its forward pass instead of constants",
        )
