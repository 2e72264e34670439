"""Greedy tokens, beams and filtered distributions are those of Hugging Face's transformers on the same logits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
import transformers

from edgefuse.runtime.generation.beams import beam_search
from edgefuse.runtime.generation.config import GenerationConfig
from edgefuse.runtime.generation.sampling import distribution
from edgefuse.runtime.generation.step import Logits, log_probabilities
from edgefuse.runtime.generation.tokens import generate

hf: Any = transformers
VOCABULARY, START, END, STEPS = 19, 0, 1, 11
NOTHING: tuple[int, ...] = ()  # was said


@pytest.fixture(scope="module")
def gpt() -> Any:
    """A small GPT-2 from a seed, wide enough to have strong opinions."""
    torch.manual_seed(3)  # some sentences end early, some late, some never
    sizes = {"n_positions": STEPS + 1, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.6}
    config = hf.GPT2Config(vocab_size=VOCABULARY, bos_token_id=START, eos_token_id=END, pad_token_id=END, **sizes)
    return hf.GPT2LMHeadModel(config).eval()


class Step:
    """The model as a step, whose state is all that was said before."""

    def __init__(self, gpt: Any) -> None:
        self._gpt = gpt
        self._logits = lru_cache(maxsize=None)(self._answer)

    def __call__(self, token: int, position: int, state: tuple[int, ...]) -> tuple[Logits, tuple[int, ...]]:
        assert position == len(state)
        said = (*state, token)
        return self._logits(said), said

    def _answer(self, said: tuple[int, ...]) -> Logits:
        with torch.inference_mode():
            found: Logits = self._gpt(torch.tensor([said])).logits[0, -1].numpy()
        return found


@pytest.fixture(scope="module")
def step(gpt: Any) -> Step:
    return Step(gpt)


def theirs(gpt: Any, start: int, **settings: Any) -> tuple[list[list[int]], Any]:
    """Return the tokens that Hugging Face generates after the one at the start, and all else that it tells."""
    told = {"return_dict_in_generate": True, "output_scores": True}
    given = torch.tensor([[start]])
    found = gpt.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=STEPS, **settings, **told)
    rows = [row[1:] for row in found.sequences.tolist()]
    return [row[: row.index(END) + 1] if END in row else row for row in rows], found


STARTS = range(2, VOCABULARY)


def test_greedy_tokens_are_equal(gpt: Any, step: Step) -> None:
    lengths = set()
    for start in STARTS:
        (expected,), _ = theirs(gpt, start, do_sample=False)
        found = list(generate(step, NOTHING, start=start, end=END, steps=STEPS, config=GenerationConfig()))
        assert [token.id for token in found] == expected
        lengths.add(len(expected))
    assert len(lengths) > 2  # some end by themselves, and some at the maximum


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("num_beams", [2, 3, 8])
def test_beams_and_their_scores_are_equal(
    num_beams: int, length_penalty: float, early_stopping: bool | Literal["never"], gpt: Any, step: Step
) -> None:
    settings = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    config = GenerationConfig(num_return_sequences=num_beams, **settings)  # type: ignore[arg-type]
    for start in STARTS[::4]:
        expected, told = theirs(gpt, start, do_sample=False, num_return_sequences=num_beams, **settings)
        *_, found = beam_search(step, NOTHING, start=start, end=END, steps=STEPS, config=config)
        assert [[token.id for token in one.tokens] for one in found] == expected
        np.testing.assert_allclose([one.score for one in found], told.sequences_scores.numpy(), rtol=1e-5)
        sums = [sum(token.logprob for token in one.tokens) / len(one.tokens) ** length_penalty for one in found]
        np.testing.assert_allclose([one.score for one in found], sums, rtol=1e-12)


def test_beams_without_an_end_are_equal(gpt: Any, step: Step) -> None:
    config = GenerationConfig(num_beams=4, max_new_tokens=5)
    given = torch.tensor([[7]])
    mask = torch.ones_like(given)
    expected = gpt.generate(
        given, attention_mask=mask, max_new_tokens=5, num_beams=4, do_sample=False, eos_token_id=None
    )
    found = generate(step, NOTHING, start=7, end=None, steps=STEPS, config=config)
    assert [token.id for token in found] == expected[0, 1:].tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 400])
@pytest.mark.parametrize("top_p", [1e-3, 0.5, 0.95, 1.0])
def test_filtered_distributions_are_equal(temperature: float, top_k: int | None, top_p: float) -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((20, 101)) * 3).astype(np.float32)
    logits[:, 3] = -np.inf
    warpers = [hf.TemperatureLogitsWarper(temperature)]
    warpers += [hf.TopKLogitsWarper(top_k)] if top_k else []
    warpers += [hf.TopPLogitsWarper(top_p)] if top_p < 1 else []
    expected = hf.LogitsProcessorList(warpers)(None, torch.from_numpy(logits)).softmax(-1).numpy()
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    found = np.stack([distribution(log_probabilities(row, "a row"), config) for row in logits])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ((found > 0) == (expected > 0)).all()


def test_the_same_uniform_number_draws_the_same_token(gpt: Any, step: Step) -> None:
    config = GenerationConfig(do_sample=True, temperature=1.5, top_k=12, top_p=0.9, seed=3)
    drawn = [token.id for token in generate(step, NOTHING, start=5, end=END, steps=STEPS, config=config)]
    warpers = [hf.TemperatureLogitsWarper(1.5), hf.TopKLogitsWarper(12), hf.TopPLogitsWarper(0.9)]
    numbers, said = np.random.default_rng(3).random(STEPS), [5]
    for number in numbers:
        scores = hf.LogitsProcessorList(warpers)(
            None, torch.from_numpy(step(said[-1], len(said) - 1, tuple(said[:-1]))[0])[None]
        )
        ends = scores.softmax(-1)[0].double().cumsum(-1).numpy()
        said.append(int(np.searchsorted(ends / ends[-1], number, side="right")))
        if said[-1] == END:
            break
    assert drawn == said[1:]
