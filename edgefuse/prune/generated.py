"""Training examples of a stage that are made from its spec alone: for trials that no data are read for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import call_torch
from edgefuse.stages.stage import TorchStage


class GeneratedExamples:
    """Enough to rank channels somehow, and to see what a pruner does; the stage answers one at a time.

    Args:
        stage: unpruned.
        count: of the examples, all of the largest shapes.
    """

    def __init__(self, stage: TorchStage, count: int = 8) -> None:
        self._stage = stage
        self._count = count

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return inputs of the stage's module, batch first, and its outputs."""
        found = [self._pairs[index] for index in indices]
        inputs, outputs = (tuple(map(torch.cat, zip(*side, strict=True))) for side in zip(*found, strict=True))
        return inputs, outputs

    @cached_property
    def _pairs(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        pairs = []
        for feeds in example_feeds(self._stage, count=self._count, fixed=True):
            inputs = [torch.tensor(feeds[port.tensor.name]) for port in self._stage.spec.inputs]
            pairs.append((inputs, [value.clone() for value in call_torch(self._stage, feeds).values()]))
        return pairs
