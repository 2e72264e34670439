"""Check what a manifest says of modalities that stream: stages that are run once per chunk, and how long chunks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from edgefuse.bundle.layout import quoted
from edgefuse.bundle.manifest import Candidate, Manifest, Streamed
from edgefuse.bundle.spec import ModelSpec, StageSpec, TensorSpec
from edgefuse.bundle.wiring import MAX_STAGES, check_ports, check_wiring, invalid, require


@dataclass(frozen=True, slots=True)
class Chunks:
    """How the steps of a modality take it.

    Attributes:
        key: of the modality's tensor, as `Source.key` spells it.
        tensor: the chunk that a step takes.
        leading: the key of the state that begins with the first values of a stream; empty if there is none.
        lead: how many of them it takes, along axis 1.
    """

    key: str
    tensor: TensorSpec
    leading: str
    lead: int

    @property
    def size(self) -> int:
        """How many values a step takes, along axis 1."""
        return self.tensor.max_shape[1]

    def window(self, values: int) -> int:
        """Return how many steps a window of so many values has: after as many, a feature is that of a whole call."""
        return max(0, values - self.lead) // self.size


def chunks_of(steps: Sequence[StageSpec]) -> Chunks:
    """Return how steps take their modality.

    Args:
        steps: the stages of a step, in order.
    """
    taken = next(port for port in steps[0].inputs if port.source.kind == "modality")
    for stage in steps:
        for port in stage.outputs:
            if port.initial is not None:
                key = f"~{stage.name}.{port.tensor.name}"
                return Chunks(taken.source.key, taken.tensor, key, port.tensor.max_shape[1])
    return Chunks(taken.source.key, taken.tensor, "", 0)


def check_streamed(manifest: Manifest) -> None:
    """Check the steps of modalities that stream: `BundleError` if their wiring is not possible."""
    count = len(manifest.all_stages)
    require(count <= MAX_STAGES, "the number of stages with those of steps", got=count, expected=f"up to {MAX_STAGES}")
    known: dict[str, StageSpec] = {}
    for stage in (stage for one in manifest.streamed or () for stage in one.stages):
        same = known.setdefault(stage.name, stage) == stage
        require(same, "two stages of steps have one name, and are not the same", got=quoted(stage.name))
    owners = {candidate.id: candidate for candidate in manifest.candidates}
    rungs = {rung.name for rung in manifest.rungs}
    taken: set[tuple[str, str]] = set()
    for one in manifest.streamed or ():
        where = f"the steps of {quoted(one.modality)}"
        _check_steps(manifest.model, manifest.stages, one, where)
        for rung, chosen in one.rungs.items():
            require(rung in rungs, f"{where} are of an unknown rung", got=quoted(rung))
            require((one.modality, rung) not in taken, f"{where} stand twice for the rung {quoted(rung)}")
            taken.add((one.modality, rung))
            _check_choice(chosen, one, owners, where)


def _check_choice(chosen: Mapping[str, str], one: Streamed, owners: Mapping[str, Candidate], where: str) -> None:
    stages = sorted(stage.name for stage in one.stages)
    if sorted(chosen) != stages:
        raise invalid(f"{where} do not choose one candidate for each stage", got=ascii(sorted(chosen)), expected=stages)
    for stage, candidate in chosen.items():
        if candidate not in owners or owners[candidate].stage != stage:
            what = f"{where} choose {quoted(candidate)} for '{stage}', which is not a candidate of that stage"
            raise invalid(what)


def _check_steps(model: ModelSpec, stages: Sequence[StageSpec], one: Streamed, where: str) -> None:
    whole = next((stage for stage in stages if stage.name == one.encoder), None)
    if whole is None or not one.stages or not one.modality or whole.modality != one.modality:
        raise invalid(f"{where} stand for no stage of that modality", got=quoted(one.encoder))
    names = {stage.name for stage in stages}
    for stage in one.stages:
        check_ports(stage)
        require(stage.name not in names, f"{where} and the stages have one name", got=quoted(stage.name))
        require(stage.modality == one.modality, f"{where} have a stage of another modality", got=quoted(stage.name))
    chunk = _checked_chunk(model, one, where)
    check_wiring(chunk, one.stages)
    ours = [port for stage in one.stages for port in stage.outputs if port.kind == "result"]
    require(not ours, f"{where} give a result")
    given = [port.tensor for port in one.stages[-1].outputs if port.kind != "state"]
    wanted = [port.tensor for port in whole.outputs]
    require(given == wanted, f"{where} do not give what '{one.encoder}' gives", got=given, expected=wanted)


def _besides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its axis 1, along which a stream goes on."""
    return (*shape[:1], *shape[2:])


def _checked_chunk(model: ModelSpec, one: Streamed, where: str) -> ModelSpec:
    """Return the model with a chunk in place of the modality, having checked that steps take nothing else."""
    modality = model.modality(one.modality)
    for stage in one.stages:
        for port in stage.inputs:
            kind = port.source.kind
            require(kind in ("modality", "stage", "state"), f"{where} take what no stream has", got=kind)
    sources = [port for stage in one.stages for port in stage.inputs if port.source.kind == "modality"]
    source = sources[0].source if len(sources) == 1 else None
    tensor = modality.tensors[0]
    if source is None or len(modality.tensors) != 1 or (source.owner, source.tensor) != (modality.name, tensor.name):
        raise invalid(f"{where} do not take the one tensor of their modality once", got=len(sources))
    chunk, whole = sources[0].tensor, tensor.max_shape
    shape = chunk.max_shape
    alike = chunk.dtype == tensor.dtype and len(shape) == len(whole) > 1 and _besides(shape) == _besides(whole)
    require(alike, f"{where} take no part of their modality", got=list(shape), expected=list(whole))
    first = [port for stage in one.stages for port in stage.outputs if port.initial is not None]
    for state in first:
        begins = state.kind == "state" and state.initial == source and len(first) == 1
        begun = state.tensor.max_shape
        fits = state.tensor.dtype == tensor.dtype and len(begun) == len(whole) and _besides(begun) == _besides(whole)
        what = f"the state '{state.tensor.name}' of {where} does not begin as it could"
        require(begins and fits, what, got=list(begun))
    steps = chunks_of(one.stages).window(whole[1])
    require(steps, f"{where} take more than their modality has", got=list(shape), expected=list(whole))
    named = msgspec.structs.replace(tensor, shape=chunk.shape)
    changed = msgspec.structs.replace(modality, tensors=(named,))
    others = tuple(changed if m.name == modality.name else m for m in model.modalities)
    return msgspec.structs.replace(model, modalities=others)
