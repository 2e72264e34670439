"""The plan of one run of a stage graph: made once, run many times."""

from __future__ import annotations

from dataclasses import dataclass

from edgefuse.bundle.spec import StageSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Step:
    """A stage to run.

    Attributes:
        stage: its wiring.
        inputs: (port, key) of every value that it takes.
        outputs: (port, key) of every value that it gives, next states apart.
        states: (port, key under which the next run finds it) of every next state.
    """

    stage: StageSpec
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    states: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Zeros:
    """A value of something absent: zeros of a tensor's largest shape under a key."""

    key: str
    tensor: TensorSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps for one choice of fresh, kept and absent modalities.

    Attributes:
        steps: in the order in which they run.
        present: for every modality of the model, in the order of the columns of the mask `present`.
        zeros: what stands for absent modalities; who calls the executor makes the arrays, once for all runs.
        results: (name, key) of what a run returns.
    """

    steps: tuple[Step, ...]
    present: tuple[bool, ...]
    zeros: tuple[Zeros, ...]
    results: tuple[tuple[str, str], ...]

    @property
    def given(self) -> tuple[str, ...]:
        """The keys that a run must find among its values: what it takes or returns and no step before gives."""
        made: set[str] = set()
        given: dict[str, None] = {}
        for step in self.steps:
            given |= dict.fromkeys(key for _, key in step.inputs if key not in made and not key.startswith("~"))
            made |= {key for _, key in step.outputs}
        return tuple(given | dict.fromkeys(key for _, key in self.results if key not in made))
