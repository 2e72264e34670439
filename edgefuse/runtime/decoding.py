"""A decoder's stage as a session that makes all tokens: its step, repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgefuse.bundle.spec import StageSpec, TokensOutput
from edgefuse.graph.decoding import StepPorts, step_ports, steps
from edgefuse.runtime.backends.backend import Array, Session

TOKEN = "token"
"""The key under which a run finds the tokens that its decoder is given, int32 [batch, n]."""

NO_TOKENS = np.empty((1, 0), np.int32)
NO_TOKENS.setflags(write=False)


class DecoderSession:
    """Repeats a decoder's step, and gives the logits of all steps, float32 [batch, steps, vocabulary].

    It takes as many steps as there are tokens given, each with its own (teacher forcing). Where none are, it begins
    with `start` and goes on with the likeliest one, until that is `end` or all steps are made (greedy decoding, of one
    item). Steps that are not made are zeros.

    Args:
        session: of the step.
        stage: of the role `decoder`.
        output: that it makes.
    """

    def __init__(self, session: Session, stage: StageSpec, output: TokensOutput) -> None:
        self.step = session
        self.ports: StepPorts = step_ports(stage)
        self.output = output

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run all steps; see `Session.run`."""
        ports, output = self.ports, self.output
        given: Array = feeds[ports.token]
        logits = np.zeros((len(given), *output.shape), np.float32)
        fixed = {port: value for port, value in feeds.items() if port != ports.token}
        made = forced(ports, self.step.run, fixed, given) if given.shape[1] else self._greedy(fixed)
        for at, (_, results) in enumerate(made):
            logits[:, at] = results[ports.result]
        return {ports.result: logits}

    def _greedy(self, feeds: Mapping[str, Array]) -> Iterator[tuple[dict[str, Array], Mapping[str, Array]]]:
        ports, output = self.ports, self.output

        def following(at: int, made: Mapping[str, Array]) -> Array | None:
            token = int(made[ports.result].argmax())
            return None if token == output.end or at + 1 == output.steps else np.array([token], np.int32)

        start = np.array([output.start], np.int32)
        return steps(ports, self.step.run, feeds, start, following, lambda at: np.array([at], np.int32))


def forced(
    ports: StepPorts, run: Callable[[dict[str, Array]], Mapping[str, Array]], feeds: Mapping[str, Array], given: Array
) -> Iterator[tuple[dict[str, Array], Mapping[str, Array]]]:
    """Run as many steps as there are tokens given, and yield the feeds of each with what it gave, by port.

    Args:
        ports: of the decoder.
        run: runs one step.
        feeds: by port: what does not change from step to step, and the first value of each state.
        given: int32 [batch, n]: the token of each step.
    """
    batch, count = given.shape

    def following(at: int, made: Mapping[str, Array]) -> Array | None:
        return given[:, at + 1] if at + 1 < count else None

    return steps(ports, run, feeds, given[:, 0], following, lambda at: np.full(batch, at, np.int32))
