"""Found stages run one after the other in torch, and held to the module that they were found in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import Bounded, Bucketed, ModelSpec, StageSpec
from edgefuse.graph import StageGraph
from edgefuse.models.fusion import masked
from edgefuse.stages.branches import Branch, feeds_at_branches
from edgefuse.stages.examples import Mask, columns_of, example_feeds, samples_of, sizes_to_show, variants_of
from edgefuse.stages.found.parts import Unsplittable
from edgefuse.stages.running import FAILURES
from edgefuse.stages.shapes import dim_of
from edgefuse.stages.silence import at
from edgefuse.stages.stage import Feeds, TorchStage, outputs_of

_TOLERANCE = 1e-5
"""Of the largest answer, and of 1 where that is smaller."""

_BATCH = 3

Shapes = dict[str, list[tuple[int, ...]]]
"""The shapes that an output of a stage had, by its key."""


def held_to_module(
    stages: Sequence[tuple[StageSpec, nn.Module]],
    whole: TorchStage,
    masks: Sequence[Mask],
    *,
    unbatched: str = "",
    branches: Sequence[Branch] = (),
) -> Shapes:
    """Run stages and the module on generated inputs of several sizes, in batches, and with modalities absent.

    Args:
        stages: in order; of what passes between them, names alone are known.
        whole: the module as one stage.
        masks: the absences that the model admits.
        unbatched: why the stages were traced for one sample, in words; empty where they take several at a time.
        branches: decisions on sizes that were traced as they fall at the largest.

    Returns:
        The shapes that the outputs of stages had.

    Raises:
        Unsplittable: if the stages do not answer as the module does.
    """
    chain = _Chain(stages, whole)
    for line, feeds in feeds_at_branches(whole, branches):
        chain.compare([feeds], f" at other sizes than the largest, which is decided{at(line)}" if line else "")
    for feeds in feeds_of_all_sizes(whole, masks):
        chain.compare([feeds], "")
    for variant in variants_of([whole]):
        count = max(_BATCH, len(masks))
        samples = list(samples_of(whole, count=count, variant=variant, masks=masks))
        if unbatched and not chain.module_takes(samples):
            break
        try:
            chain.compare(samples, f" in a batch of {count}" + (" short ones" if variant else ""))
        except FAILURES as error:
            if unbatched:
                raise Unsplittable(
                    f"it takes batches, and torch traces it for one sample alone: {unbatched}"
                ) from error
            raise
    return chain.shapes


def feeds_of_all_sizes(whole: TorchStage, masks: Sequence[Mask]) -> Iterator[Feeds]:
    """Yield generated inputs of a model: every size, several lengths, each modality absent if it may be."""
    yield from example_feeds(whole, count=max(sizes_to_show(whole.spec, 4), 2, len(masks)), masks=masks)


def dims(shapes: Sequence[tuple[int, ...]], spec: ModelSpec) -> tuple[int | Bounded | Bucketed, ...]:
    """Return the shape of a tensor that had some shapes."""
    every = [dim for modality in spec.modalities for tensor in modality.tensors for dim in tensor.shape]
    bounded = any(isinstance(dim, Bounded) for dim in every)
    return tuple(dim_of(sizes, bounded) for sizes in zip(*shapes, strict=True))


class _Chain:
    """Found stages, which a graph runs one after the other.

    Attributes:
        shapes: that the outputs of the stages had for samples by themselves.
    """

    def __init__(self, stages: Sequence[tuple[StageSpec, nn.Module]], whole: TorchStage) -> None:
        self.shapes: Shapes = {}
        self._graph = StageGraph(tuple(spec for spec, _ in stages), ())
        self._modules = {spec.name: module for spec, module in stages}
        self._whole = whole
        self._columns = columns_of([whole])

    def compare(self, samples: Sequence[Feeds], where: str) -> None:
        """Run the stages and the module on samples, as one batch.

        Args:
            samples: inputs of the module.
            where: they come from, for the error.

        Raises:
            Unsplittable: if the stages do not answer as the module does.
        """
        pool = self._pool(samples)

        def run_stage(spec: StageSpec, given: dict[str, Tensor]) -> dict[str, Tensor]:
            return self._run(spec, given, pool.get("present"))

        found, _ = self._graph.run(self._graph.plan(()), run_stage, pool)
        _compare(_call(self._whole.module, list(pool.values())), found, self._whole, where)

    def module_takes(self, samples: Sequence[Feeds]) -> bool:
        """Tell whether the module takes samples as one batch."""
        try:
            _call(self._whole.module, list(self._pool(samples).values()))
        except FAILURES:
            return False
        return True

    def _pool(self, samples: Sequence[Feeds]) -> dict[str, Tensor]:
        return {
            port.source.key: torch.from_numpy(np.concatenate([sample[port.tensor.name] for sample in samples]))
            for port in self._whole.spec.inputs
        }

    def _run(self, spec: StageSpec, given: Mapping[str, Tensor], present: Tensor | None) -> dict[str, Tensor]:
        """Run a stage; what others read of an absent modality is zeros, as on a device."""
        made: dict[str, Tensor] = {}
        values = _call(self._modules[spec.name], [given[port.tensor.name] for port in spec.inputs])
        for port, value in zip(spec.outputs, values, strict=True):
            name = port.tensor.name
            if len(value) == 1:
                self.shapes.setdefault(spec.key(name), []).append(tuple(value.shape))
            if present is not None and spec.modality and port.kind == "feature":
                value = masked(value, present[:, self._columns[spec.modality]])
            made[name] = value
        return made


def _call(module: nn.Module, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return outputs_of(module(*tensors))


def _compare(expected: tuple[Tensor, ...], found: Mapping[str, Tensor], whole: TorchStage, where: str) -> None:
    for port, value in zip(whole.spec.outputs, expected, strict=True):
        name = port.tensor.name
        if found[name].shape != value.shape:
            shapes = f"{list(found[name].shape)} instead of {list(value.shape)}"
            raise Unsplittable(f"the stages give '{name}' as {shapes}{where}")
        difference = float((found[name] - value).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(value.abs().max())):
            raise Unsplittable(f"the stages and the module differ by {difference:.2g} in '{name}'{where}")
