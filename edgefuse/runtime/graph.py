"""The executor of a model's wiring: stages run in order over a pool of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse.bundle.spec import Modality, StageSpec
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
    """Runs stages, in an order in which they can run, over values keyed as `Source.key` spells them.

    A stage of an absent modality is skipped: its outputs are zeros of the largest shape, and so are the modality's
    tensors where another stage asks for them. A stage without a session is not run: whoever needs its outputs finds
    them among the given values (features that were kept, states of a stream). Modalities are in the order of the
    columns of `present`.
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
        mask = np.array([[float(name in present) for name in known]], np.float32)
        constants = {"present": mask, **absent_values(m for m in self._modalities if m.name not in present)}
        constants |= absent_features(s for s in self._stages if s.modality and s.modality not in present)
        steps: list[_Step] = []
        results: list[tuple[str, str]] = []
        for stage in self._stages:
            if stage.name in self._sessions and (not stage.modality or stage.modality in present):
                inputs = tuple((port.tensor.name, port.source.key) for port in stage.inputs)
                outputs = tuple((port.tensor.name, stage.key(port.tensor.name)) for port in stage.outputs)
                steps.append(_Step(session=self._sessions[stage.name], inputs=inputs, outputs=outputs))
                results += [pair for pair, port in zip(outputs, stage.outputs, strict=True) if port.kind == "result"]
        for constant in constants.values():
            constant.setflags(write=False)  # shared by all runs of the plan
        plan = _Plan(constants=constants, steps=tuple(steps), results=tuple(results))
        self._plans[present] = plan
        return plan


def absent_values(modalities: Iterable[Modality]) -> dict[str, Array]:
    """Return what stands for the tensors and lengths of modalities that are absent, by key: zeros."""
    values: dict[str, Array] = {}
    for modality in modalities:
        for tensor in modality.tensors:
            values[f"{modality.name}.{tensor.name}"] = np.zeros(tensor.max_shape, tensor.dtype)
        if modality.length:
            values[f"{modality.name}.length"] = np.zeros(1, np.int32)
    return values


def absent_features(stages: Iterable[StageSpec]) -> dict[str, Array]:
    """Return what stands for the outputs of stages whose modality is absent, by key: float32 zeros."""
    ports = ((stage.key(port.tensor.name), port.tensor) for stage in stages for port in stage.outputs)
    return {key: np.zeros(tensor.max_shape, np.float32) for key, tensor in ports}
