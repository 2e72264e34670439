"""The sizes of stages: parameters, multiply-accumulates, and the bytes that cross from one to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.check.record import FoundStage
from edgefuse.export.costs import costs
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import call_torch
from edgefuse.stages.stage import TorchStage, parameters_of


def found_stages(stages: Sequence[TorchStage], files: Mapping[str, Built]) -> tuple[FoundStage, ...]:
    """Describe stages.

    Args:
        stages: of the model.
        files: a float file of each stage that could be lowered, from which its arithmetic is counted.
    """
    specs = [stage.spec for stage in stages]
    return tuple(
        FoundStage(
            name=stage.spec.name,
            role=stage.spec.role,
            modality=stage.spec.modality,
            parameters=parameters_of(stage.module),
            mac=_mac(stage, files.get(stage.spec.name)),
            crossing_bytes=crossing_bytes(stage.spec, specs),
        )
        for stage in stages
    )


def nonzero_of(module: nn.Module) -> int:
    """Return how many of a module's weights are not zero: what unstructured pruning leaves of them."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in module.parameters())


def crossing_bytes(stage: StageSpec, stages: Sequence[StageSpec]) -> int:
    """Return the bytes that others read of a stage, per sample; what several read counts once.

    Args:
        stage: that is read.
        stages: of the model.
    """
    read = {port.source.key for other in stages for port in other.inputs if port.source.kind == "stage"}
    tensors = [port.tensor for port in stage.outputs if stage.key(port.tensor.name) in read]
    return sum(tensor.size_bytes for tensor in tensors)


def _mac(stage: TorchStage, file: Built | None) -> int | None:
    """Count from the stage's file; where nothing lowers it, as torch counts, which knows no recurrent layers."""
    if file is not None:
        return costs(file.lowered(), file.target, stage.spec).mac
    with FlopCounterMode(display=False) as counter:
        call_torch(stage, next(example_feeds(stage)))
    return int(counter.get_total_flops()) // 2 or None
