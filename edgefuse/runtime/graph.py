"""The executor of a model's wiring: stages run in order over a pool of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.spec import Modality, Source, StageSpec, TensorSpec
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array, Session

Subset = tuple[str, ...]
"""Names of the modalities that are present."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage to run: (port, key) of what goes in and of what comes out."""

    session: Session
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one subset of modalities runs: constants (zeros of what is absent, `present`), steps, results."""

    constants: dict[str, Array]
    steps: tuple[_Step, ...]
    results: tuple[tuple[str, str], ...]


class Graph:
    """Runs stages over values keyed as `Source.key` spells them.

    A stage that belongs to an absent modality is skipped and its outputs are float32 zeros of the largest shape;
    tensors of an absent modality that another stage asks for are zeros, too. A stage without a session is not run:
    whoever needs its outputs finds them among the given values (features that were kept, states of a stream).

    Args:
        stages: all stages of the model, in an order in which they can run.
        sessions: opened files by the stage's name, for some or all of the stages.
        modalities: in the order of the columns of `present`.
    """

    def __init__(
        self, stages: Sequence[StageSpec], sessions: Mapping[str, Session], modalities: Sequence[Modality]
    ) -> None:
        self._stages = tuple(stages)
        self._sessions = dict(sessions)
        self._modalities = tuple(modalities)
        self._plans: dict[Subset, _Plan] = {}

    def run(self, values: Mapping[str, Array], present: Subset) -> dict[str, Array]:
        """Return the results of the stages that ran, by output name.

        Args:
            values: the tensors of the present modalities and the outputs of stages without a session.
            present: the names of the modalities that are present.

        Raises:
            InputError: if a value that a stage needs is missing, or a name in `present` is unknown.
            BackendError: if a runtime cannot run a stage.
        """
        plan = self._plans.get(present) or self._planned(present)
        pool = self._execute(plan, values)
        return {name: pool[key] for name, key in plan.results}

    def values(self, values: Mapping[str, Array], present: Subset) -> dict[str, Array]:
        """Return the whole pool after a run: what was given, constants, features and results, by key."""
        return self._execute(self._plans.get(present) or self._planned(present), values)

    def _execute(self, plan: _Plan, values: Mapping[str, Array]) -> dict[str, Array]:
        pool = {**values, **plan.constants}  # what is absent stays zero, whatever was given
        for step in plan.steps:
            try:
                feeds = {port: pool[key] for port, key in step.inputs}
            except KeyError as error:
                raise InputError(
                    f"the value '{error.args[0]}' that a stage needs is missing", got=", ".join(values) or "nothing"
                ) from None
            results = step.session.run(feeds)
            for port, key in step.outputs:
                pool[key] = results[port]
        return pool

    def _planned(self, present: Subset) -> _Plan:
        """Work out a subset's plan, once."""
        known = [modality.name for modality in self._modalities]
        unknown = set(present) - set(known)
        if unknown:
            raise InputError("unknown modalities", got=", ".join(sorted(unknown)), expected=" or ".join(known))
        absent = set(known) - set(present)
        mask = np.array([[float(name in present) for name in known]], np.float32)
        constants: dict[str, Array] = {"present": mask, **dict(self._absent_tensors(absent))}
        steps: list[_Step] = []
        results: list[tuple[str, str]] = []
        for stage in self._stages:
            outputs = tuple((port.tensor.name, _key(stage, port.tensor)) for port in stage.outputs)
            if stage.modality in absent:
                for port in stage.outputs:
                    constants[_key(stage, port.tensor)] = np.zeros(port.tensor.max_shape, np.float32)
            elif stage.name in self._sessions:
                inputs = tuple((port.tensor.name, port.source.key) for port in stage.inputs)
                steps.append(_Step(session=self._sessions[stage.name], inputs=inputs, outputs=outputs))
                results += [
                    (port.tensor.name, _key(stage, port.tensor)) for port in stage.outputs if port.kind == "result"
                ]
        for constant in constants.values():
            constant.setflags(write=False)  # shared by all runs of the plan
        plan = _Plan(constants=constants, steps=tuple(steps), results=tuple(results))
        self._plans[present] = plan
        return plan

    def _absent_tensors(self, absent: set[str]) -> Iterator[tuple[str, Array]]:
        for modality in self._modalities:
            if modality.name in absent:
                for tensor in modality.tensors:
                    source = Source(kind="modality", owner=modality.name, tensor=tensor.name)
                    yield source.key, np.zeros(tensor.max_shape, tensor.dtype)
                yield Source(kind="length", owner=modality.name).key, np.zeros(1, np.int32)


def _key(stage: StageSpec, tensor: TensorSpec) -> str:
    return Source(kind="stage", owner=stage.name, tensor=tensor.name).key
