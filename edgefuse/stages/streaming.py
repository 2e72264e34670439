"""The stages of one step of a modality that streams: its frontend and encoder, run chunk by chunk (decision 120)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
from torch import Tensor, nn

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.spec import Source, StageInput, StageOutput, StageSpec, TensorSpec, spelled
from edgefuse.bundle.streamed import chunks_of
from edgefuse.errors import ModelError
from edgefuse.graph import StageGraph
from edgefuse.measure.agreement import agreement
from edgefuse.models.streaming import Streaming, StreamingEncoder
from edgefuse.runtime.graph import zeros_of_tensor
from edgefuse.stages.decoder import NEXT
from edgefuse.stages.examples import chained_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Array, Feeds, TorchStage


class StreamStep(nn.Module):
    """One step of a module that streams, as a stage is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Take a chunk and the states."""
        made: tuple[Tensor, ...] = self.module.step(*tensors)  # type: ignore[operator] # it is `Streaming`
        return made


def branches(stages: Sequence[TorchStage]) -> Iterator[tuple[TorchStage, ...]]:
    """Yield the frontend, if there is one, and the encoder of each modality that offers a `step`.

    Args:
        stages: of a model.
    """
    for encoder in (stage for stage in stages if stage.spec.role == "encoder" and stage.spec.modality):
        branch = tuple(stage for stage in stages if stage.spec.modality == encoder.spec.modality)
        chained = len(branch) <= 2 and branch[-1] is encoder and branch[0].spec.role in ("frontend", "encoder")
        modules = [stage.module for stage in branch]
        if chained and isinstance(modules[-1], StreamingEncoder) and all(isinstance(m, Streaming) for m in modules):
            yield branch


def step_stages(branch: Sequence[TorchStage]) -> tuple[TorchStage, ...]:
    """Return the stages of one step of a modality.

    Args:
        branch: of the modality, as `branches` gives it; pruned or not.

    Raises:
        ModelError: if a step fails, or is not what it should be.
    """
    encoder: StreamingEncoder = branch[-1].module  # type: ignore[assignment] # so `branches` says
    first = branch[0].spec.inputs[0]
    shape = first.tensor.shape
    chunk = msgspec.structs.replace(first.tensor, shape=(shape[0], encoder.chunk, *shape[2:]))
    taken = StageInput(tensor=chunk, source=first.source)
    made: list[TorchStage] = []
    for stage in branch:
        made.append(_step_stage(stage, taken))
        feature, spec = made[-1].spec.outputs[0].tensor, made[-1].spec
        source = Source(kind="stage", owner=spec.name, tensor=feature.name)
        taken = StageInput(tensor=feature, source=source)
    _check_feature(branch[-1], made[-1])
    return tuple(made)


def _step_stage(stage: TorchStage, taken: StageInput) -> TorchStage:
    """Return the stage of one step of a stage.

    Args:
        stage: whose module is `Streaming`.
        taken: its chunk.
    """
    module: Streaming = stage.module  # type: ignore[assignment] # so `branches` says
    cut = f"_{re.sub(r'[^A-Za-z0-9_]', '_', stage.pruning.id)}" if stage.pruning else ""
    name = f"{stage.spec.name}_step{cut}"
    states = [TensorSpec(name=state, shape=(1, *shape)) for state, shape in module.states.items()]
    inputs = [StageInput(tensor=one, source=Source(kind="state", owner=name, tensor=NEXT + one.name)) for one in states]
    draft = StageSpec(
        name=name,
        role=stage.spec.role,
        inputs=(taken, *inputs),
        outputs=(stage.spec.outputs[0], *(_following(one, module.leading, taken.source) for one in states)),
        modality=stage.spec.modality,
    )
    made = replace(stage, spec=draft, module=StreamStep(stage.module).eval(), alike="", lines=())
    feature, *found = _shapes(made)
    for port, shape in zip(draft.outputs[1:], found, strict=True):
        if shape != port.tensor.shape:
            what = f"the state '{port.tensor.name.removeprefix(NEXT)}' of a step of {_said(stage)} has another shape"
            raise ModelError(what, got=spelled(shape), expected=spelled(port.tensor.shape))
    tensor = msgspec.structs.replace(draft.outputs[0].tensor, shape=feature)
    output = msgspec.structs.replace(draft.outputs[0], tensor=tensor)
    return replace(made, spec=msgspec.structs.replace(draft, outputs=(output, *draft.outputs[1:])))


def _following(state: TensorSpec, leading: str, source: Source) -> StageOutput:
    initial = source if state.name == leading else None
    return StageOutput(tensor=msgspec.structs.replace(state, name=NEXT + state.name), kind="state", initial=initial)


def _shapes(stage: TorchStage) -> list[tuple[int, ...]]:
    """Return the shapes of what a step gives on zeros; `ModelError` if it fails or gives another number of tensors."""
    given = run_torch(stage, {port.tensor.name: zeros_of_tensor(port.tensor) for port in stage.spec.inputs})
    return [value.shape for value in given.values()]


def _check_feature(whole: TorchStage, step: TorchStage) -> None:
    """Refuse a step whose feature has another shape than that of the whole call."""
    found, wanted = step.spec.outputs[0].tensor, whole.spec.outputs[0].tensor
    if found != wanted:
        what = f"a step of {_said(whole)} gives a feature of another shape than a whole call"
        raise ModelError(what, got=spelled(found.shape), expected=spelled(wanted.shape))


def stepped(steps: Sequence[TorchStage], values: Array) -> Iterator[tuple[dict[str, Feeds], dict[str, Array]]]:
    """Run steps in torch from reset, and yield what each stage took in a step, and what the last one gave, by port.

    Args:
        steps: the stages of a step.
        values: of the modality, [1, n, …]: as many steps are run as there are chunks in them.
    """
    specs = tuple(stage.spec for stage in steps)
    by_name, chunks = {stage.spec.name: stage for stage in steps}, chunks_of(specs)
    graph = StageGraph(specs, ())
    plan = graph.plan((), wanted=[specs[-1].name])
    state = graph.initial(zeros_of_tensor)
    if chunks.leading:
        state[chunks.leading] = values[:, : chunks.lead]
    taken: dict[str, Feeds] = {}
    given: dict[str, Array] = {}

    def run_stage(spec: StageSpec, feeds: dict[str, Array]) -> Mapping[str, Array]:
        nonlocal given
        taken[spec.name] = feeds
        given = run_torch(by_name[spec.name], feeds)
        return given

    for start in range(chunks.lead, values.shape[1] - chunks.size + 1, chunks.size):
        _, state = graph.run(plan, run_stage, {chunks.key: values[:, start : start + chunks.size]}, state)
        yield dict(taken), given


def check_steps(branch: Sequence[TorchStage], steps: Sequence[TorchStage]) -> None:
    """Hold steps from reset to a whole call, in torch, on generated inputs.

    Args:
        branch: the stages of a whole call.
        steps: those of a step.

    Raises:
        ModelError: if the last feature is not that of the whole call, or a chunk is longer than that.
    """
    port = branch[0].spec.inputs[0]
    chunks = chunks_of([stage.spec for stage in steps])
    if not chunks.window(port.tensor.max_shape[1]):
        what = f"a step of {_said(branch[-1])} takes more than a whole call has"
        raise ModelError(what, got=chunks.lead + chunks.size, expected=f"at most {port.tensor.max_shape[1]}")
    feeds = next(chained_feeds(branch))
    *_, (_, last) = stepped(steps, feeds[branch[0].spec.name][port.tensor.name])
    whole = run_torch(branch[-1], feeds[branch[-1].spec.name])
    found = agreement([(whole, {name: last[name] for name in whole})], Tolerance())
    if not found.ok:
        raise ModelError(
            f"the steps of {_said(branch[-1])} do not give from reset what a whole call gives",
            got=found.reason,
            expected="the same feature at the end of a window, to 1e-4",
            fix="look for padding in the middle of a window, and for states that are not handed on",
        )


def _said(stage: TorchStage) -> str:
    return stage.said.rstrip(",")


def streams_of(stages: Sequence[TorchStage]) -> dict[str, tuple[TorchStage, ...]]:
    """Return the stages of a step of every modality that streams, by the name of the encoder.

    Args:
        stages: of a model.

    Raises:
        ModelError: as of `held_steps`.
    """
    return {branch[-1].spec.name: held_steps(branch) for branch in branches(stages)}


def held_steps(branch: Sequence[TorchStage]) -> tuple[TorchStage, ...]:
    """Return the stages of a step, which give from reset what a whole call gives.

    Args:
        branch: of the modality, as `branches` gives it; pruned or not.

    Raises:
        ModelError: if a step is not what it should be, or gives something else.
    """
    steps = step_stages(branch)
    check_steps(branch, steps)
    return steps
