"""A decoder's step, repeated: the loop that every runner of it takes, over whatever its values are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from edgefuse.bundle.spec import StageSpec

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class StepPorts:
    """What the ports of a decoder's stage are.

    Attributes:
        token: takes the id before.
        position: takes the number of the step; empty if the step does not ask for it.
        result: gives the logits of the next token.
        states: (input, output) of each state.
    """

    token: str
    position: str
    result: str
    states: tuple[tuple[str, str], ...]

    def following(self, feeds: Mapping[str, V], made: Mapping[str, V]) -> dict[str, V]:
        """Return the feeds of the next step, but for its token and position: the states that this one gave."""
        return {**feeds, **{taken: made[given] for taken, given in self.states}}


def decoder_of(stages: Sequence[StageSpec]) -> StageSpec | None:
    """Return the stage that makes one token after the other, if a model has one."""
    return next((stage for stage in stages if stage.role == "decoder"), None)


@lru_cache(maxsize=16)
def step_ports(stage: StageSpec) -> StepPorts:
    """Return the ports of a stage of the role `decoder`, as `bundle.wiring` checks it."""
    by_kind = {port.source.kind: port.tensor.name for port in stage.inputs}
    return StepPorts(
        token=by_kind["token"],
        position=by_kind.get("position", ""),
        result=next(port.tensor.name for port in stage.outputs if port.kind == "result"),
        states=tuple((port.tensor.name, port.source.tensor) for port in stage.inputs if port.source.kind == "state"),
    )


def steps(
    ports: StepPorts,
    run: Callable[[dict[str, V]], Mapping[str, V]],
    feeds: Mapping[str, V],
    token: V,
    following: Callable[[int, Mapping[str, V]], V | None],
    position: Callable[[int], V],
) -> Iterator[tuple[dict[str, V], Mapping[str, V]]]:
    """Run steps one after the other, and yield the feeds of each with what it gave, by port.

    Args:
        ports: of the decoder.
        run: runs one step.
        feeds: by port: what does not change from step to step, and the first value of each state.
        token: of the first step.
        following: the token of the step after the n-th, from 0, of what that gave; None to end.
        position: the number of a step as a value.
    """
    current = dict(feeds)
    at = 0
    next_token: V | None = token
    while next_token is not None:
        current[ports.token] = next_token
        if ports.position:
            current[ports.position] = position(at)
        made = run(current)
        yield current, made
        next_token = following(at, made)
        current = ports.following(current, made)
        at += 1


def forced(
    ports: StepPorts,
    run: Callable[[dict[str, V]], Mapping[str, V]],
    feeds: Mapping[str, V],
    given: Any,
    position: Callable[[int], V],
) -> Iterator[tuple[dict[str, V], Mapping[str, V]]]:
    """Run as many steps as there are tokens given, and yield the feeds of each with what it gave, by port.

    Args:
        ports: of the decoder.
        run: runs one step.
        feeds: by port: what does not change from step to step, and the first value of each state.
        given: the token of each step, int32 [batch, n]: an array, or a tensor of torch's.
        position: the number of a step as a value.
    """

    def following(at: int, made: Mapping[str, V]) -> V | None:
        return given[:, at + 1] if at + 1 < given.shape[1] else None

    return steps(ports, run, feeds, given[:, 0], following, position)
