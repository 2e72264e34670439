"""Beam search: several hypotheses side by side."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic

import numpy as np

from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.step import State, Step, Token, greatest, log_probabilities


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished sequence of tokens.

    Attributes:
        tokens: of it; the last is the end token, unless there were as many as may be.
        score: the sum of their log probabilities, divided by the power `length_penalty` of their number.
    """

    tokens: tuple[Token, ...]
    score: float


@dataclass(frozen=True, slots=True)
class _Beam(Generic[State]):
    """A running hypothesis: its tokens, the state after them, the sum of their log probabilities."""

    tokens: tuple[Token, ...]
    state: State
    total: float


Search = Generator[tuple[Hypothesis, ...], None, None]


def beam_search(
    step: Step[State], state: State, *, start: int, end: int | None, steps: int, config: GenerationConfig
) -> Search:
    """Search for the best hypotheses: give those finished so far after each position, the best first.

    The last that are given are the answer, `config.num_return_sequences` of them unless the model rules out too many
    tokens. It can be given up in between, as any generator. Which hypotheses are kept, when one counts as finished and
    when the search ends is as in `generate` of Hugging Face's transformers 5: at each position the best 2 · num_beams
    continuations of all beams; of them, those among the first num_beams that end are finished, the first num_beams that
    do not end go on.

    Args:
        step: one step of the decoder.
        state: before the first token.
        start: the token before the first one.
        end: the token that ends a sequence, if there is one.
        steps: the most tokens that the decoder can generate.
        config: of the search.

    Raises:
        InputError: if `config` asks for more tokens than that; when logits are not finite.
    """
    return _search(step, state, start, end, config.limit(steps), config)


def _search(
    step: Step[State], state: State, start: int, end: int | None, limit: int, config: GenerationConfig
) -> Search:
    running: list[_Beam[State]] = [_Beam((), state, 0.0)]
    finished: list[Hypothesis] = []
    for position in range(limit):
        candidates = _continued(step, running, start, position, 2 * config.num_beams)
        running = []
        for rank, beam in enumerate(candidates):
            if beam.tokens[-1].id == end or position + 1 == limit:
                if rank < config.num_beams:
                    finished.append(Hypothesis(beam.tokens, beam.total / (position + 1) ** config.length_penalty))
            elif len(running) < config.num_beams:
                running.append(beam)
        finished = sorted(finished, key=lambda one: -one.score)[: config.num_beams]
        yield tuple(finished[: config.num_return_sequences])
        if not running or _is_over(running[0].total, position + 1, finished, limit, config):
            return


def _continued(
    step: Step[State], beams: list[_Beam[State]], start: int, position: int, most: int
) -> list[_Beam[State]]:
    """Return the best continuations of beams by a token, the best first; none that the model rules out."""
    states, logprobs = [], []
    for beam in beams:
        logits, state = step(beam.tokens[-1].id if beam.tokens else start, position, beam.state)
        states.append(state)
        logprobs.append(log_probabilities(logits, f"token {position}"))
    rows = np.stack(logprobs)
    totals = rows + np.array([[beam.total] for beam in beams])
    chosen = [divmod(index, rows.shape[1]) for index in greatest(totals.reshape(-1), most)]
    return [
        _Beam((*beams[row].tokens, Token(token, float(rows[row, token]))), states[row], float(totals[row, token]))
        for row, token in chosen
        if rows[row, token] > -np.inf
    ]


def _is_over(best: float, length: int, finished: list[Hypothesis], limit: int, config: GenerationConfig) -> bool:
    """Return whether no running hypothesis is thought to come among the finished ones.

    Args:
        best: the greatest sum of log probabilities of a running one.
        length: of the running ones, in tokens.
        finished: the best first.
        limit: the greatest length.
        config: of the search.
    """
    if len(finished) < config.num_beams:
        return False
    longest = limit if config.early_stopping == "never" and config.length_penalty > 0 else length
    return config.early_stopping is True or best / longest**config.length_penalty <= finished[-1].score
