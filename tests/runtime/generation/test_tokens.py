"""Generation ends cleanly: by the end token, at the maximum, given up in between, at logits that are no numbers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.generation.beams import beam_search
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.sampling import distribution
from edgefuse.runtime.generation.step import Logits, Token, log_probabilities
from edgefuse.runtime.generation.tokens import Tokens, generate

NAN, INF = float("nan"), float("inf")
WAYS = [GenerationConfig(), GenerationConfig(num_beams=3), GenerationConfig(do_sample=True, seed=1)]
CHANCES = np.array([0.1, 0.2, 0.3, 0.4])


class State:
    """A state that can be watched."""


class Counting:
    """A step that says 3 until a position, and then 0, the end; it counts its calls and watches its states."""

    def __init__(self, end_at: int) -> None:
        self.end_at = end_at
        self.positions: list[int] = []
        self.states: weakref.WeakSet[State] = weakref.WeakSet()

    def __call__(self, token: int, position: int, state: State) -> tuple[Logits, State]:
        self.positions.append(position)
        following = State()
        self.states.add(following)
        logits = np.full(6, -np.inf, np.float32)
        logits[0 if position == self.end_at else 3] = 0
        return logits, following


def generated(step: Any, config: GenerationConfig, steps: int = 5) -> Tokens:
    return generate(step, State(), start=2, end=0, steps=steps, config=config)


@pytest.mark.parametrize("config", WAYS)
def test_it_ends_with_the_end_token(config: GenerationConfig) -> None:
    step = Counting(end_at=2)
    assert list(generated(step, config)) == [Token(3, 0), Token(3, 0), Token(0, 0)]
    assert step.positions == [0, 1, 2]


@pytest.mark.parametrize("config", WAYS)
def test_an_endless_one_ends_at_the_maximum(config: GenerationConfig) -> None:
    step = Counting(end_at=-1)
    assert [token.id for token in generated(step, config)] == [3] * 5
    assert step.positions == [0, 1, 2, 3, 4]


def test_less_can_be_asked_for_and_more_cannot() -> None:
    assert len(list(generated(Counting(-1), GenerationConfig(max_new_tokens=2)))) == 2
    for num_beams in (1, 2):  # said at once, not at the first token
        with pytest.raises(InputError, match="max_new_tokens is out of range: got 6, expected at most 5, what the mod"):
            generated(Counting(-1), GenerationConfig(max_new_tokens=6, num_beams=num_beams))


def test_one_that_is_given_up_runs_no_further_and_holds_nothing() -> None:
    step = Counting(end_at=-1)
    tokens = generated(step, GenerationConfig())
    assert (next(tokens).id, next(tokens).id) == (3, 3)
    gc.disable()  # what is freed is freed at once
    try:
        assert len(step.states) == 1
        tokens.close()
        assert (len(step.states), step.positions) == (0, [0, 1])
    finally:
        gc.enable()
    assert list(tokens) == []


def test_a_beam_search_that_is_given_up_runs_no_further_and_holds_nothing() -> None:
    step = Counting(end_at=-1)
    search = beam_search(step, State(), start=2, end=0, steps=5, config=GenerationConfig(num_beams=2))
    assert next(search) == ()
    search.close()
    assert (len(step.states), step.positions) == (0, [0])


@pytest.mark.parametrize("config", WAYS)
@pytest.mark.parametrize("bad", [[0, NAN, 1], [0, INF, 1], [-INF, -INF, -INF]])
def test_logits_that_are_no_numbers_are_told_with_their_position(bad: list[float], config: GenerationConfig) -> None:
    def step(token: int, position: int, state: State) -> tuple[Logits, State]:
        return np.array(bad if position == 1 else [-INF, 0, -INF], np.float32), state

    number = sum(not np.isfinite(value) for value in bad)
    with pytest.raises(InputError) as caught:
        list(generated(step, config))
    assert str(caught.value) == (
        f"the logits of token 1 are not finite: got {number} of 3 numbers NaN or infinite, expected numbers. "
        "Fix: scale the inputs as in training: what is too large overflows inside the model."
    )


def test_greedy_takes_the_best_whatever_its_logarithm_rounds_to() -> None:
    logits = np.array([1e-40, 2e-40, 0], np.float32)
    found = generate(lambda *_: (logits, None), None, start=0, end=None, steps=1, config=GenerationConfig())
    assert [token.id for token in found] == [1]


def test_seeds_draw_the_same_and_others_not() -> None:
    logits = np.zeros(50, np.float32)

    def drawn(seed: int | None) -> list[int]:
        config = GenerationConfig(do_sample=True, seed=seed)
        return [t.id for t in generate(lambda *_: (logits, None), None, start=0, end=None, steps=20, config=config)]

    assert drawn(7) == drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    class Grid:
        """Uniform numbers that are exactly evenly spread."""

        def __init__(self, seed: int | None) -> None:
            self.numbers = iter((np.arange(1000) + 0.5) / 1000)

        def choice(self, size: int, p: np.ndarray[Any, Any]) -> int:
            cdf = p.cumsum()
            return int(np.searchsorted(cdf / cdf[-1], next(self.numbers), side="right"))

    logits = np.log(CHANCES).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", Grid)
        config = GenerationConfig(do_sample=True, top_p=0.7)
        tokens = generate(lambda *_: (logits, None), None, start=0, end=None, steps=1000, config=config)
        counts = np.bincount([token.id for token in tokens], minlength=4)
    np.testing.assert_allclose(counts / 1000, [0, 0, 3 / 7, 4 / 7], atol=1.5e-3)


def test_a_token_tells_its_probability_by_the_model_not_of_the_draw() -> None:
    logits = np.log(CHANCES).astype(np.float32)
    for config in (GenerationConfig(), GenerationConfig(num_beams=2), GenerationConfig(do_sample=True, top_k=1)):
        (token,) = generate(lambda *_: (logits, None), None, start=0, end=None, steps=1, config=config)
        assert token.id == 3
        assert token.logprob == pytest.approx(np.log(0.4))


def test_equals_of_the_last_of_the_k_are_kept_and_a_temperature_near_zero_is_greedy() -> None:
    logprobs = log_probabilities(np.array([0, 1, 1, 2], np.float32), "a row")
    assert np.count_nonzero(distribution(logprobs, GenerationConfig(do_sample=True, top_k=2))) == 3
    np.testing.assert_array_equal(
        distribution(logprobs, GenerationConfig(do_sample=True, temperature=1e-320)), [0, 0, 0, 1]
    )


def test_hypotheses_that_branch_share_the_state_that_they_come_from() -> None:
    seen = []
    nothing: tuple[int, ...] = ()

    def step(token: int, position: int, state: tuple[int, ...]) -> tuple[Logits, tuple[int, ...]]:
        seen.append((token, state))
        return np.array([-5, 1, 0.9, -4], np.float32), (*state, token)

    config = GenerationConfig(num_beams=2, num_return_sequences=2)
    *_, found = beam_search(step, nothing, start=3, end=0, steps=2, config=config)
    assert seen == [(3, ()), (1, (3,)), (2, (3,))]
    assert [[token.id for token in one.tokens] for one in found] == [[1, 1], [1, 2]]


def test_a_search_with_few_tokens_left_returns_what_there_is() -> None:
    config = GenerationConfig(num_beams=4, num_return_sequences=4)
    *_, found = beam_search(Counting(1), State(), start=2, end=0, steps=5, config=config)
    assert [[token.id for token in one.tokens] for one in found] == [[3, 0]]


def test_several_sequences_are_not_made_one_token_after_the_other() -> None:
    config = GenerationConfig(num_beams=2, num_return_sequences=2)
    with pytest.raises(InputError, match="num_return_sequences has no effect where tokens come one after the other"):
        generated(Counting(1), config)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is out of range: got 0, expected an int of 1 or more, or None."),
        ({"num_beams": 1.5}, "num_beams is out of range: got 1.5, expected an int from 1 to 1024."),
        ({"num_beams": 1025}, "num_beams is out of range: got 1025, expected an int from 1 to 1024."),
        ({"num_beams": np.int64(2)}, "num_beams is out of range: got np.int64(2), expected an int from 1 to 1024."),
        (
            {"temperature": 10**400, "do_sample": True},
            f"temperature is out of range: got 1{76 * '0'}..., expected an int or a float above 0.",
        ),
        (
            {"top_p": 10**5000, "do_sample": True},
            "top_p is out of range: got a number that is too long to show, "
            "expected an int or a float above 0 and at most 1.",
        ),
        ({"num_beams": True}, "num_beams is out of range: got True, expected an int from 1 to 1024."),
        ({"num_return_sequences": 2}, "num_return_sequences is out of range: got 2, expected at most num_beams, 1."),
        ({"do_sample": 1}, "do_sample is out of range: got 1, expected true or false."),
        (
            {"temperature": 0.0, "do_sample": True},
            "temperature is out of range: got 0.0, expected an int or a float above 0.",
        ),
        ({"temperature": NAN}, "temperature is out of range: got nan, expected an int or a float above 0."),
        ({"top_k": 0, "do_sample": True}, "top_k is out of range: got 0, expected an int of 1 or more, or None."),
        ({"top_p": 1.1}, "top_p is out of range: got 1.1, expected an int or a float above 0 and at most 1."),
        ({"seed": -1}, "seed is out of range: got -1, expected an int of 0 or more, or None."),
        (
            {"length_penalty": 1e3},
            "length_penalty is out of range: got 1000.0, expected an int or a float from -10 to 10.",
        ),
        (
            {"early_stopping": "always"},
            "early_stopping is out of range: got 'always', expected true, false or \"never\".",
        ),
        (
            {"num_beams": 2, "do_sample": True},
            "num_beams has no effect with do_sample: tokens are drawn for one sequence: got 2. "
            "Fix: leave num_beams out.",
        ),
        ({"seed": 4}, "seed has no effect with no do_sample: nothing is drawn: got 4. Fix: leave seed out."),
        (
            {"early_stopping": True},
            "early_stopping has no effect with one beam: there is nothing to compare: got True. "
            "Fix: leave early_stopping out.",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        GenerationConfig(**settings)
    assert str(caught.value) == sentence
