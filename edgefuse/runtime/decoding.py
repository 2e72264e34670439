"""A decoder's stage as a session that makes all tokens: its step, repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ModelSpec, StageSpec, TokensOutput
from edgefuse.errors import InputError
from edgefuse.graph import decoding
from edgefuse.graph.decoding import StepPorts, step_ports
from edgefuse.runtime.backends.backend import Array, Bound, Session, Stepping
from edgefuse.runtime.backends.denormals import Flushed

Logits: TypeAlias = npt.NDArray[np.float32]

_IDLE = 8
"""Buffers that are kept for the next generations."""

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
        self._flushed = Flushed()
        self._idle: list[Bound] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run all steps; see `Session.run`."""
        ports, output = self.ports, self.output
        given = feeds[ports.token]
        tokens = self._checked(given)
        logits = np.zeros((len(given), *output.shape), np.float32)
        fixed = {port: value for port, value in feeds.items() if port != ports.token}
        if len(given) > 1:
            for at, (_, made) in enumerate(forced(ports, self.step.run, fixed, given)):
                logits[:, at] = made[ports.result]
            return {ports.result: logits}
        start: int = tokens[0] if tokens else output.start  # type: ignore[assignment] # a decoder's output has a start
        with self._flushed, self.stepping(fixed) as step:  # once, not at each step
            logits[0, 0] = found = step(start, 0)
            for at in range(1, len(tokens) or output.steps):
                token = tokens[at] if tokens else int(found.argmax())
                if not tokens and token == output.end:
                    break
                logits[0, at] = found = step(token, at)
        return {ports.result: logits}

    def _checked(self, given: Array) -> list[int]:
        """Return tokens as numbers; refuse those that there are none of, and more of them than a state has room for."""
        words, most = len(self.output.labels), self.output.steps
        if given.ndim != 2 or given.dtype != np.int32 or given.shape[1] > most:
            got, expected = f"{given.dtype} {list(given.shape)}", f"int32 [1, at most {most}]"
            raise InputError("the tokens that a decoder is given are of another form", got=got, expected=expected)
        numbers: list[int] = given.ravel().tolist()  # in numpy, the least and the largest of a few take longer
        if numbers and not 0 <= min(numbers) <= max(numbers) < words:
            got = f"{min(numbers)} to {max(numbers)}"
            raise InputError("a token that a decoder is given is none", got=got, expected=f"0 to {words - 1}")
        return numbers

    @contextmanager
    def stepping(self, feeds: Mapping[str, Array]) -> Iterator[Callable[[int, int], Logits]]:
        """Give a call that takes the token before and its position, and gives the logits of the next, [vocabulary].

        The state goes on from call to call, in buffers of the session where it has some; logits last until the next
        call but one.

        Args:
            feeds: by port: what does not change, and the first value of each state.
        """
        ports = self.ports
        numbers = {port: np.zeros(1, np.int32) for port in (ports.token, ports.position) if port}
        bound = self._bound()
        current = dict(bound.begin({**feeds, **numbers}) if bound else {**feeds, **numbers})
        token, position = current[ports.token], current.get(ports.position, np.zeros(1, np.int32))

        def step(before: int, at: int) -> Logits:
            nonlocal current
            token[0], position[0] = before, at
            if bound:
                made = bound.run()
            else:
                made = self.step.run(current)
                current = ports.following(current, made)
            logits: Logits = made[ports.result][0]
            return logits

        try:
            yield step
        finally:
            if bound and len(self._idle) < _IDLE:
                self._idle.append(bound)

    def _bound(self) -> Bound | None:
        try:
            return self._idle.pop()
        except IndexError:  # asked for beforehand, another thread may take the last one
            ports = self.ports
        changed = [port for port in (ports.token, ports.position) if port]
        return self.step.bind(ports.states, changed) if isinstance(self.step, Stepping) else None


def forced(
    ports: StepPorts, run: Callable[[dict[str, Array]], Mapping[str, Array]], feeds: Mapping[str, Array], given: Array
) -> Iterator[tuple[dict[str, Array], Mapping[str, Array]]]:
    """Run as many steps as there are tokens given; see `edgefuse.graph.decoding.forced`.

    Args:
        ports: of the decoder.
        run: runs one step.
        feeds: by port.
        given: int32 [batch, n].
    """
    return decoding.forced(ports, run, feeds, given, lambda at: np.full(len(given), at, np.int32))


def repeated(session: Session, stage: StageSpec, model: ModelSpec) -> Session:
    """Return what runs a stage once: of a decoder all steps, of another its session.

    Args:
        session: of the stage's file, or of torch.
        stage: that it computes.
        model: that has the stage.
    """
    output = model.outputs[0]
    if stage.role == "decoder" and isinstance(output, TokensOutput):
        return DecoderSession(session, stage, output)
    return session
