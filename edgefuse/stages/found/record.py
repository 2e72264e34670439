"""The record of what was found, and what every search for stages decides alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from torch import nn

from edgefuse.bundle.spec import Dim, ModelSpec, StageSpec, TensorSpec
from edgefuse.stages.found.dependence import Labelled, without_mask
from edgefuse.stages.found.parts import Part, Unsplittable
from edgefuse.stages.silence import at, line_of
from edgefuse.stages.stage import TorchStage

_LEAST_SHARE = 0.1
"""Of the multiply-accumulates: with less than this before fusion, stages would cost more than they bring."""


@dataclass(frozen=True)
class Work:
    """A found stage in numbers.

    Attributes:
        stage: its name.
        parameters: of its module, shared ones once.
        macs: multiply-accumulates for one sample of the largest size.
        modules: submodules that stay modules; the whole stage is one where this is its only entry and it has no more.
    """

    stage: str
    parameters: int
    macs: int
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crossing:
    """A tensor that passes from one stage to others.

    Attributes:
        source: the stage that makes it.
        tensor: its name there.
        shape: of one sample.
        size_bytes: of one sample of the largest size, in float32.
    """

    source: str
    tensor: str
    shape: tuple[Dim, ...]
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """A model taken apart.

    Attributes:
        module: what stands for the model: it takes all tensors, then lengths, then the mask, in the order of the spec.
        spec: of the model; modalities that cannot be absent are required in it, whatever the user's says.
        stages: in an order in which they can run.
        work: of each stage; empty where nothing was searched for (a `FusionModel`, a module called by position).
        crossings: what passes between the stages.
        share: of the multiply-accumulates that see one modality; None where nothing was searched for.
        notes: sentences about what was decided and why.
    """

    module: nn.Module
    spec: ModelSpec
    stages: tuple[TorchStage, ...]
    work: tuple[Work, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    share: float | None = None
    notes: tuple[str, ...] = ()


def required(spec: ModelSpec) -> ModelSpec:
    """Return a spec of which no modality may be absent."""
    modalities = tuple(msgspec.structs.replace(modality, optional=False) for modality in spec.modalities)
    return msgspec.structs.replace(spec, modalities=modalities)


def require_gain(parts: Sequence[Part], model: Labelled) -> None:
    """Refuse to divide a model of which too little comes before fusion.

    Raises:
        Unsplittable: with the reason.
    """
    if len(parts) == 1:
        raise Unsplittable("every operation sees all modalities")
    alone = [node for part in parts if part.name != "fusion" for node in part.nodes]
    share = sum(model.macs[node] for node in set(alone)) / max(1, model.total)
    if model.total and share < _LEAST_SHARE:
        raise Unsplittable(f"{share:.1%} of the multiply-accumulates come before fusion")


def share_of(model: Labelled) -> float:
    """Return the share of the multiply-accumulates that see one modality."""
    alone = sum(count for node, count in model.macs.items() if len(model.labels[node]) <= 1)
    return alone / model.total if model.total else 1.0


def early_mask(model: Labelled) -> tuple[str, ...]:
    """Return a sentence where `present` enters before encoders, so that they depend on all modalities; else nothing."""
    other = without_mask(model)
    lost = share_of(other) - share_of(model)
    mixed = [node for node, label in model.labels.items() if len(label) > 1 == len(other.labels[node])]
    if lost < _LEAST_SHARE or not mixed:
        return ()
    line = next(filter(None, (line_of(node.meta.get("stack_trace")) for node in mixed)), "")
    return (
        f"`present` enters{at(line)} before {lost:.0%} of the multiply-accumulates, which would else see one modality: "
        "leave it out there, since what is absent is zeros already, or apply it to what the encoders give",
    )


def shaped(spec: StageSpec, found: dict[str, tuple[Dim, ...]]) -> StageSpec:
    """Return a wiring with the shapes of what passes between stages."""

    def with_shape(tensor: TensorSpec, key: str) -> TensorSpec:
        return msgspec.structs.replace(tensor, shape=found[key])

    inputs = tuple(
        msgspec.structs.replace(port, tensor=with_shape(port.tensor, port.source.key))
        if port.source.kind == "stage"
        else port
        for port in spec.inputs
    )
    outputs = tuple(
        msgspec.structs.replace(port, tensor=with_shape(port.tensor, spec.key(port.tensor.name)))
        for port in spec.outputs
    )
    return msgspec.structs.replace(spec, inputs=inputs, outputs=outputs)


def crossings_of(stages: Sequence[TorchStage]) -> tuple[Crossing, ...]:
    """Return what passes between stages."""
    read = {port.source.key for stage in stages for port in stage.spec.inputs if port.source.kind == "stage"}
    return tuple(
        Crossing(stage.spec.name, port.tensor.name, port.tensor.shape, port.tensor.size_bytes)
        for stage in stages
        for port in stage.spec.outputs
        if stage.spec.key(port.tensor.name) in read
    )
