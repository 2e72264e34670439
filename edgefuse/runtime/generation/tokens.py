"""Generation, token by token."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

import numpy as np

from edgefuse.runtime.generation.beams import Search, beam_search
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.sampling import distribution
from edgefuse.runtime.generation.step import State, Step, Token, log_probabilities

Tokens = Generator[Token, None, None]


def generate(
    step: Step[State], state: State, *, start: int, end: int | None, steps: int, config: GenerationConfig
) -> Tokens:
    """Give tokens as they are generated; the last is the end token, unless there are as many as may be.

    It can be given up between two tokens, as any generator, and then holds nothing any more. With beams, all tokens of
    the best hypothesis come when the search is over; `beam_search` can be given up in between.

    Args:
        step: one step of the decoder.
        state: before the first token.
        start: the token before the first one.
        end: the token that ends a sequence, if there is one.
        steps: the most tokens that the decoder can generate.
        config: how tokens are chosen.

    Raises:
        InputError: if `config` asks for more tokens than that, or for several sequences; when logits are not finite.
    """
    config.check_single()
    if config.num_beams > 1:
        return _found(beam_search(step, state, start=start, end=end, steps=steps, config=config))
    return _chosen(step, state, start, end, config.limit(steps), config)


def _chosen(
    step: Step[State], state: State, token: int, end: int | None, limit: int, config: GenerationConfig
) -> Tokens:
    rng = np.random.default_rng(config.seed) if config.do_sample else None
    for position in range(limit):
        logits, state = step(token, position, state)
        logprobs = log_probabilities(logits, f"token {position}")
        token = int(logits.argmax()) if rng is None else int(rng.choice(logits.size, p=distribution(logprobs, config)))
        yield Token(token, float(logprobs[token]))
        if token == end:
            return


def _found(search: Search) -> Tokens:
    (hypotheses,) = deque(search, maxlen=1)
    yield from hypotheses[0].tokens
