"""A stage graph over opened files: the plans of every subset of modalities, and numpy's values for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgefuse.bundle.spec import StageSpec, TensorSpec
from edgefuse.graph import Plan, StageGraph, Zeros
from edgefuse.graph.decoding import decoder_of
from edgefuse.runtime.backends.backend import Array, Session
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.cache import Kept
from edgefuse.runtime.decoding import NO_TOKENS, TOKEN, DecoderSession

if TYPE_CHECKING:
    from edgefuse.runtime.side_by_side import RunStage, Sides

Subset = tuple[str, ...]
"""Names of the modalities that are present."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Preprocessed inputs.

    Attributes:
        values: tensors by key (`image.pixels`, `text.length`).
        present: the names of the modalities that are present, in spec order.
        encoded: those of them that are encoded already: their features are among the values.
        kept: what stages made of the inputs before, of a stream.
    """

    values: Mapping[str, Array]
    present: Subset
    encoded: Subset = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A subset's plan, and the values that all its runs share."""

    plan: Plan
    constants: dict[str, Array]
    state: dict[str, Array]


class Graph:
    """Runs the stages of a model in their sessions, over values keyed as `Source.key` spells them.

    A stage of an absent modality is skipped: its outputs are zeros of the largest shape, and so are the modality's
    tensors where another stage asks for them. A stage without a session is not run: whoever needs its outputs finds
    them among the given values (features that were kept). Not safe for concurrent calls; an open bundle holds its lock.

    Args:
        stages: of the model.
        sessions: by stage.
        sides: encodes several new modalities in two threads, where that is faster.
    """

    def __init__(self, stages: StageGraph, sessions: Mapping[str, Session], sides: Sides | None = None) -> None:
        self._stages = stages
        self._sessions = dict(sessions)
        self._sides = sides
        self.flushed = Flushed()
        self._given = [stage.name for stage in stages.stages if stage.name not in sessions]
        self._prepared: dict[tuple[Subset, Subset], _Prepared] = {}
        stateful = {s.modality for s in stages.stages if any(port.kind == "state" for port in s.outputs)}
        self._stateless = {stage.modality for stage in stages.stages} - stateful - {""}

    def run(
        self, values: Mapping[str, Array], present: Subset, encoded: Subset = (), kept: Kept | None = None
    ) -> dict[str, Array]:
        """Return the results of the stages that ran, by output name.

        Args:
            values: arrays by key, batch first.
            present: names of the modalities that are there.
            encoded: those of them whose features are among the values, in place of their tensors.
            kept: what stages made of the inputs before, if a stream says which of them are new.

        Raises:
            InputError: if a value that a stage needs is missing, or a name in `present` is unknown.
            BackendError: if a runtime cannot run a stage.
        """
        return self.step(values, present, None, encoded, kept)[0]

    def step(
        self,
        values: Mapping[str, Array],
        present: Subset,
        state: Mapping[str, Array] | None,
        encoded: Subset = (),
        kept: Kept | None = None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the results, and the state for the next step; `initial_state` gives that of the first one.

        Args:
            values: arrays by key, batch first.
            present: names of the modalities that are there.
            state: of the step before.
            encoded: as of `run`.
            kept: as of `run`.
        """
        with self.flushed:
            if kept is not None:
                return self._continued(kept, values, present, state, encoded)
            return self._walked(values, present, encoded, self._run_stage, state)

    @property
    def decoder(self) -> DecoderSession | None:
        """What makes tokens, if the model does."""
        last = self._sessions.get(self._stages.stages[-1].name)
        return last if isinstance(last, DecoderSession) else None

    def before_decoder(self, values: Mapping[str, Array], present: Subset, encoded: Subset = ()) -> dict[str, Array]:
        """Run what is run once per input, and return what the decoder is fed with, by port; within `flushed`.

        Args:
            values: as of `run`.
            present: as of `run`.
            encoded: as of `run`.
        """
        fed: dict[str, Array] = {}

        def run_stage(
            stage: StageSpec, feeds: dict[str, Array], sessions: Mapping[str, Session] = self._sessions, /
        ) -> dict[str, Array]:
            if stage.role != "decoder":
                return self._run_stage(stage, feeds, sessions)
            fed.update(feeds)
            return dict.fromkeys((port.tensor.name for port in stage.outputs), NO_TOKENS)

        self._walked(values, present, encoded, run_stage)
        return fed

    def run_with_features(
        self, values: Mapping[str, Array], present: Subset, encoded: Subset = ()
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the results, and by key the outputs of the stages that belong to one modality; within `flushed`.

        Args:
            values: as of `run`.
            present: as of `run`.
            encoded: as of `run`.
        """
        features: dict[str, Array] = {}

        def run_stage(
            stage: StageSpec, feeds: dict[str, Array], sessions: Mapping[str, Session] = self._sessions, /
        ) -> dict[str, Array]:
            made = self._run_stage(stage, feeds, sessions)
            if stage.modality:
                features.update((stage.key(port), value) for port, value in made.items())
            return made

        return self._walked(values, present, encoded, run_stage)[0], features

    @cached_property
    def after_encoders(self) -> Graph:
        """The stages that read several modalities; it finds the outputs of all others among the given values."""
        names = [stage.name for stage in self._stages.stages if not stage.modality]
        return Graph(self._stages, {name: self._sessions[name] for name in names if name in self._sessions})

    def initial_state(self) -> dict[str, Array]:
        """Return the state before the first step."""
        return self._stages.initial(zeros_of_tensor)

    def _walked(
        self,
        values: Mapping[str, Array],
        present: Subset,
        encoded: Subset,
        run: RunStage,
        state: Mapping[str, Array] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run a subset's plan, and return the results and the next state. Absent is zero, whatever was given."""
        prepared = self._prepare(present, encoded)
        pool = {TOKEN: NO_TOKENS, **values, **prepared.constants}
        if self._sides is not None:
            new, features = self._sides.encode(present, encoded, pool, run)
            if new:
                pool.update(features)
                prepared = self._prepare(present, (*encoded, *new))
        return self._stages.run(prepared.plan, run, pool, state or prepared.state)

    def _run_stage(
        self, stage: StageSpec, feeds: dict[str, Array], sessions: Mapping[str, Session] | None = None, /
    ) -> dict[str, Array]:
        return (self._sessions if sessions is None else sessions)[stage.name].run(feeds)

    def _continued(
        self,
        kept: Kept,
        values: Mapping[str, Array],
        present: Subset,
        state: Mapping[str, Array] | None,
        encoded: Subset,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run a step of a stream: where an input is as it was, its features stand in its place; others are kept."""
        made: dict[str, dict[str, Array]] = {}

        def run_stage(
            stage: StageSpec, feeds: dict[str, Array], sessions: Mapping[str, Session] = self._sessions, /
        ) -> dict[str, Array]:
            outputs = kept.run(stage.modality, sessions[stage.name], feeds)
            if stage.modality in self._stateless:
                features = made.setdefault(stage.modality, {})
                features.update((stage.key(port), value) for port, value in outputs.items())
            return outputs

        found = kept.found(self)
        pool = dict(values)
        for features in found.values():
            pool.update(features)
        answer = self._walked(pool, present, (*encoded, *found), run_stage, state)
        for name, one in made.items():
            kept.keep(name, self, one)
        return answer

    def _prepare(self, present: Subset, encoded: Subset) -> _Prepared:
        """Return a subset's plan, worked out once."""
        if found := self._prepared.get((present, encoded)):
            return found
        plan = self._stages.plan([name for name in present if name not in encoded], encoded, given=self._given)
        constants = constants_of(plan)
        for constant in constants.values():
            constant.setflags(write=False)  # shared by all runs of the plan
        start = self.initial_state() if decoder_of([step.stage for step in plan.steps]) else {}
        self._prepared[present, encoded] = prepared = _Prepared(plan, constants, start)
        return prepared


def constants_of(plan: Plan) -> dict[str, Array]:
    """Return the mask `present` of a plan, and zeros for what is absent, by key."""
    mask = np.array([plan.present], np.float32)
    return {"present": mask, **zeros(plan.zeros)}


def zeros(wanted: Iterable[Zeros]) -> dict[str, Array]:
    """Return the values of what is absent, by key."""
    return {one.key: zeros_of_tensor(one.tensor) for one in wanted}


def zeros_of_tensor(tensor: TensorSpec) -> Array:
    """Return zeros of a tensor's largest shape."""
    return np.zeros(tensor.max_shape, tensor.dtype)
