"""A model's stages as a value, and the executor of their wiring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from edgefuse.bundle.spec import Modality, Source, StageSpec, TensorSpec
from edgefuse.errors import InputError
from edgefuse.graph.plan import Plan, Step, Zeros

V = TypeVar("V")


@dataclass(frozen=True)
class StageGraph:
    """The stages of a model, in an order in which they can run.

    A stage with a `modality` belongs to it alone, so its outputs are that modality's features: they can be kept while
    the modality does not change, and are zeros while it is absent. All other stages read several modalities. That the
    wiring is possible is for `bundle.wiring` to check.

    A decoder stands in a plan once: what runs the stage repeats its step (`decoding`). In a run it takes the tokens
    that are given, under `token`, and the first value of each state, and gives the logits of all its steps.

    Attributes:
        stages: with their wiring.
        modalities: in the order of the columns of `present`.
    """

    stages: tuple[StageSpec, ...]
    modalities: tuple[Modality, ...]

    def plan(
        self,
        fresh: Collection[str],
        kept: Collection[str] = (),
        absent: Collection[str] | None = None,
        *,
        given: Collection[str] = (),
        wanted: Collection[str] | None = None,
    ) -> Plan:
        """Return the stages that run, in order, and the values that they reuse.

        Args:
            fresh: modalities whose values are new.
            kept: modalities whose features are found among the values, as an earlier run gave them.
            absent: modalities that are not there; all others if None.
            given: stages whose outputs are found among the values, too, unless their modality is absent.
            wanted: stages whose outputs are wanted, all of them by key, and nothing is run that they do not need; the
                model's results by name if None.

        Raises:
            InputError: a name is none of this model's, or a modality is named twice.
        """
        names = [modality.name for modality in self.modalities]
        gone = [name for name in names if name not in fresh and name not in kept] if absent is None else list(absent)
        self._check_names([*fresh, *kept, *gone])
        silent = {stage.name for stage in self.stages if stage.modality in gone}
        skipped = silent | {stage.name for stage in self.stages if stage.modality in kept} | {*given}
        needed = {stage.name for stage in self.stages} if wanted is None else self._needed(wanted, skipped)
        steps = tuple(_step(stage) for stage in self.stages if stage.name in needed and stage.name not in skipped)
        return Plan(
            steps=steps,
            present=tuple(name not in gone for name in names),
            zeros=tuple(self._zeros(gone)),
            results=tuple(self._results(silent, wanted)),
        )

    def run(
        self,
        plan: Plan,
        run_stage: Callable[[StageSpec, dict[str, V]], Mapping[str, V]],
        values: Mapping[str, V],
        state: Mapping[str, V] | None = None,
    ) -> tuple[dict[str, V], dict[str, V]]:
        """Run a plan.

        Args:
            plan: of this graph.
            run_stage: computes the outputs of a stage, by port, from its inputs, by port.
            values: by key, as `Source.key` spells them: tensors and lengths of the fresh modalities, `present`, kept
                features, and the plan's zeros.
            state: what the last run returned, or `initial` gives; only stages with a state need one.

        Returns:
            The plan's results by name, and the state for the next run: that of stages which did not run is as before.

        Raises:
            InputError: a value that a stage needs is missing.
        """
        pool = {**values, **state} if state else dict(values)
        following = dict(state) if state else {}
        for step in plan.steps:
            try:
                feeds = {port: pool[key] for port, key in step.inputs}
            except KeyError as error:
                raise _missing(step.stage, str(error.args[0]), values) from None
            made = run_stage(step.stage, feeds)
            for port, key in step.outputs:
                pool[key] = made[port]
            for port, key in step.states:
                following[key] = made[port]
        return {name: pool[key] for name, key in plan.results}, following

    def inputs(self, stage: StageSpec) -> tuple[tuple[str, str], ...]:
        """Return (port, key) of all that a run hands to a stage."""
        return _step(stage).inputs

    def initial(self, zeros: Callable[[TensorSpec], V]) -> dict[str, V]:
        """Return the state before the first run: zeros, as the bundle format says."""
        return {
            _state_key(stage, port.tensor.name): zeros(port.tensor)
            for stage in self.stages
            for port in stage.outputs
            if port.kind == "state"
        }

    def _check_names(self, named: list[str]) -> None:
        known = [modality.name for modality in self.modalities]
        if unknown := sorted({*named} - {*known}):
            raise InputError("a run names unknown modalities", got=", ".join(unknown), expected=" or ".join(known))
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise InputError(f"the modality '{twice[0]}' is more than one of fresh, kept and absent")

    def _needed(self, wanted: Collection[str], skipped: Collection[str]) -> set[str]:
        """Return the stages that are wanted, and those that they read from, up to where stages are skipped."""
        needed = {*wanted}
        for stage in reversed(self.stages):
            if stage.name in needed and stage.name not in skipped:
                needed |= {source.owner for _, source in _reads(stage) if source.kind == "stage"}
        return needed

    def _zeros(self, gone: Collection[str]) -> Iterator[Zeros]:
        for modality in self.modalities:
            if modality.name in gone:
                yield from zeros_of(modality)
        for stage in self.stages:
            if stage.modality in gone:
                yield from (Zeros(stage.key(port.tensor.name), port.tensor) for port in stage.outputs)

    def _results(self, silent: Collection[str], wanted: Collection[str] | None) -> Iterator[tuple[str, str]]:
        """Yield what a run returns: outputs of wanted stages, or the model's results but those of `silent` stages."""
        for stage in self.stages:
            if wanted is not None and stage.name in wanted:
                yield from ((key, key) for _, key in _step(stage).outputs)
            elif wanted is None and stage.name not in silent:
                names = [port.tensor.name for port in stage.outputs if port.kind == "result"]
                yield from ((name, stage.key(name)) for name in names)


def zeros_of(modality: Modality) -> Iterator[Zeros]:
    """Yield what stands for a modality's tensors, and its length, while it is absent."""
    for tensor in modality.tensors:
        yield Zeros(f"{modality.name}.{tensor.name}", tensor)
    if modality.length:
        yield Zeros(f"{modality.name}.length", TensorSpec(name="length", dtype="int32", shape=(1,)))


def _reads(stage: StageSpec) -> Iterator[tuple[str, Source]]:
    """Yield what a stage reads in a run, by port: a decoder the first values of its states, and no position."""
    initial = {port.tensor.name: port.initial for port in stage.outputs if stage.role == "decoder"}
    for port in stage.inputs:
        if port.source.kind != "position":
            first = initial.get(port.source.tensor) if port.source.kind == "state" else None
            yield port.tensor.name, first or port.source


def _step(stage: StageSpec) -> Step:
    states = [port.tensor.name for port in stage.outputs if port.kind == "state" and stage.role != "decoder"]
    return Step(
        stage=stage,
        inputs=tuple((port, source.key) for port, source in _reads(stage)),
        outputs=tuple(
            (port.tensor.name, stage.key(port.tensor.name)) for port in stage.outputs if port.kind != "state"
        ),
        states=tuple((port, _state_key(stage, port)) for port in states),
    )


def _state_key(stage: StageSpec, output: str) -> str:
    return Source(kind="state", owner=stage.name, tensor=output).key


def _missing(stage: StageSpec, key: str, values: Mapping[str, object]) -> InputError:
    return InputError(
        f"the value '{key}', which the stage '{stage.name}' needs, is missing", got=", ".join(values) or "nothing"
    )
