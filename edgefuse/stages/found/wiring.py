"""The wiring of found parts: names of ports, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.fx import Node

from edgefuse.bundle.spec import ModelSpec, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.stages.found.parts import Part
from edgefuse.stages.found.traced import Traced


def wired(parts: Sequence[Part], traced: Traced, spec: ModelSpec) -> list[StageSpec]:
    """Return the wiring of parts; the shapes of what passes between them are empty, and every port is float32.

    Args:
        parts: in order.
        traced: the model that they are of.
        spec: of the model.
    """
    made: dict[Node, tuple[Part, str]] = {}
    specs: list[StageSpec] = []
    for part in parts:
        outputs = _outputs(part, spec)
        names = [port.tensor.name for port in outputs[len(part.results) :]]
        inputs = _inputs(part, traced, made)
        made |= {node: (part, name) for node, name in zip(part.outputs, names, strict=True)}
        specs.append(StageSpec(name=part.name, role=part.role, inputs=inputs, outputs=outputs, modality=part.modality))
    return specs


def order_inputs(parts: Sequence[Part], traced: Traced, spec: ModelSpec) -> None:
    """Put the inputs of parts into order: by modality, features before tensors before lengths, and the mask last.

    Args:
        parts: in order.
        traced: the model that they are of.
        spec: of the model.
    """
    owners = {node: part for part in parts for node in part.outputs}
    columns = {modality.name: number for number, modality in enumerate(spec.modalities)}
    kinds = ("stage", "modality", "length")

    def rank(node: Node) -> tuple[int, int]:
        value = traced.taken.get(node)
        if value is None:
            owner = owners[node]
            return columns.get(owner.modality, len(columns)), kinds.index("stage")
        if value.source.kind == "present":
            return len(columns) + 1, 0
        return columns[value.source.owner], kinds.index(value.source.kind)

    for part in parts:
        part.inputs.sort(key=rank)


def _outputs(part: Part, spec: ModelSpec) -> tuple[StageOutput, ...]:
    shapes = {output.name: output.shape for output in spec.outputs}
    results = tuple(
        StageOutput(tensor=TensorSpec(name=name, shape=(1, *shapes[name])), kind="result") for name in part.results
    )
    names = _Names(part.results)
    return results + tuple(StageOutput(tensor=TensorSpec(name=names.new("feature"), shape=())) for _ in part.outputs)


def _inputs(part: Part, traced: Traced, made: Mapping[Node, tuple[Part, str]]) -> tuple[StageInput, ...]:
    names = _Names(())
    ports: list[StageInput] = []
    for node in part.inputs:
        value = traced.taken.get(node)
        if value is None:
            owner, tensor = made[node]
            name = "feature" if part.modality else owner.modality or owner.name
            port = TensorSpec(name=names.new(name), shape=())
            source = Source(kind="stage", owner=owner.name, tensor=tensor)
        else:
            name = value.tensor.name if part.modality else value.port
            port = TensorSpec(name=names.new(name), dtype=value.tensor.dtype, shape=value.tensor.shape)
            source = value.source
        ports.append(StageInput(tensor=port, source=source))
    return tuple(ports)


class _Names:
    """Gives names of which none is there twice: `feature`, then `feature_2`."""

    def __init__(self, taken: Sequence[str] | Mapping[str, object]) -> None:
        self._taken = set(taken)

    def new(self, name: str) -> str:
        """Return the name, or the first of its numbered kind that is free."""
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free
