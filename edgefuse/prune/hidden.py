"""Narrow a stage on the inside of its blocks only: hidden units and heads, while the residual stream keeps its width.

What a block adds to the stream shrinks; the stream itself, which all blocks share and which an embedding table or a
teacher's later layers were made for, stays (Michel et al., arXiv:1905.10650, for heads; McCarley et al.,
arXiv:1910.06360, for both in BERT). A student then starts nearer to the unpruned stage than after `structured`, at the
same time per run, and a table of embeddings stays as it was.
"""

from __future__ import annotations

from torch import nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.prune.pruner import Examples, Verdict
from edgefuse.prune.structured import narrowed
from edgefuse.prune.trial import try_widths
from edgefuse.stages.stage import TorchStage


class HiddenPruner:
    """Remove a fraction of every width that no sum and no embedding table shares, and of the inside of attentions."""

    name = "hidden"
    gradual = True

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a copy with narrower blocks around a stream of the same width.

        Raises:
            PruneError: as `StructuredPruner.prune` does.
        """
        return narrowed(stage, step, examples, lambda width: width.is_hidden, "hidden units or heads inside its blocks")

    def verdicts(self, stage: TorchStage, step: PruningStep) -> tuple[Verdict, ...]:
        """Return what came of narrowing hidden units and heads."""
        return tuple(one for one in try_widths(stage, step.ratio) if one.hidden)
