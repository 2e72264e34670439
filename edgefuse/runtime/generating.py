"""Tokens of one input, as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from threading import Event
from types import TracebackType
from typing import TypeAlias

import numpy as np

from edgefuse.bundle.spec import TokensOutput
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.decoding import DecoderSession
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.step import Logits, State, Step, Token
from edgefuse.runtime.generation.tokens import Tokens, generate

Calling: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Holds the bundle for one call of a runtime."""


class _ClosedError(Exception):
    """Ends the loop of steps of a generation that another thread has closed."""


class Generation(Iterator[Token]):
    """The tokens that a decoder makes of one input: an iterator, which `Pipeline.generate` returns.

    Each step is a call of its own: others of the bundle may come in between. It may be given up after any token, by
    `close`, which may come from another thread, by leaving a `with` block, or by letting go of it; nothing of it stays.

    Attributes:
        tokens: those made so far, the end token included.
    """

    def __init__(
        self,
        decoder: DecoderSession,
        feeds: Mapping[str, Array],
        config: GenerationConfig,
        calling: Calling,
    ) -> None:
        self.tokens: list[Token] = []
        self._output = decoder.output
        if not isinstance(config, GenerationConfig):
            got = type(config).__name__
            raise InputError("this does not say how tokens are chosen", got=got, expected="a GenerationConfig, or None")
        self._closed = closed = Event()  # not `self`, which a generator of its own would keep
        config.check_single()
        config.limit(decoder.output.steps)

        def unless_closed() -> AbstractContextManager[object]:
            if closed.is_set():
                raise _ClosedError
            return calling()

        made = _from_buffers if config.num_beams == 1 else _from_states
        first = {port: value for port, value in feeds.items() if port != decoder.ports.token}
        self._made = made(decoder, first, config, unless_closed)

    @property
    def text(self) -> str:
        """What the tokens made so far spell."""
        return self._output.text([token.id for token in self.tokens])

    def close(self) -> None:
        """Make no more tokens; a step that another thread is in is the last one. Closing twice is harmless."""
        self._closed.set()
        with suppress(ValueError):  # it is executing: it sees that it is closed before its next step
            self._made.close()

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Token:
        if self._closed.is_set():
            self._made.close()
        try:
            token = next(self._made)
        except _ClosedError:
            raise StopIteration from None
        self.tokens.append(token)
        return token

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _from_buffers(
    decoder: DecoderSession, feeds: dict[str, Array], config: GenerationConfig, calling: Calling
) -> Tokens:
    """Make tokens of one hypothesis, whose state stays where the runtime keeps it."""
    with decoder.stepping(feeds) as run:

        def step(token: int, position: int, state: None) -> tuple[Logits, None]:
            with calling():
                return run(token, position), None

        yield from _tokens(step, None, decoder.output, config)


def _from_states(
    decoder: DecoderSession, feeds: dict[str, Array], config: GenerationConfig, calling: Calling
) -> Tokens:
    """Make tokens of several hypotheses, which branch: each has its state."""
    ports = decoder.ports

    def step(token: int, position: int, state: dict[str, Array]) -> tuple[Logits, dict[str, Array]]:
        numbers = {ports.token: token, ports.position: position}
        given = {port: np.array([number], np.int32) for port, number in numbers.items() if port}
        with calling():
            made = decoder.step.run({**state, **given})
        return np.asarray(made[ports.result][0], np.float32), ports.following(state, made)

    yield from _tokens(step, feeds, decoder.output, config)


def _tokens(step: Step[State], first: State, output: TokensOutput, config: GenerationConfig) -> Tokens:
    start: int = output.start  # type: ignore[assignment] # `bundle.decoders` says so
    return generate(step, first, start=start, end=output.end, steps=output.steps, config=config)
