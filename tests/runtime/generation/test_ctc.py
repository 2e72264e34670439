"""Frame labels as text: exact against all paths, and the same whatever the chunks."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.bundle.outputs import TokensOutput
from edgefuse.errors import InputError
from edgefuse.runtime.generation.ctc import BestPath, PrefixBeamSearch
from edgefuse.runtime.generation.step import Logits
from edgefuse.runtime.prediction import Prediction

OUTPUT = TokensOutput(steps=6, labels=("a", "", "b", "c"), blank=1)


def frames(seed: int, steps: int, scale: float = 1.5) -> Logits:
    """Return logits [steps, 4]; blanks are likely, as in trained models."""
    logits = np.random.default_rng(seed).standard_normal((steps, 4)) * scale
    logits[:, 1] += 0.7
    return logits.astype(np.float32)


def probabilities(logits: Logits) -> dict[str, float]:
    """Return the probability of each text: the sum over all paths that spell it, one by one."""
    chances = np.exp(logits.astype(np.float64))
    chances /= chances.sum(axis=1, keepdims=True)
    found: dict[str, float] = defaultdict(float)
    for path in product(range(len(OUTPUT.labels)), repeat=len(logits)):
        text = "".join(OUTPUT.labels[token] for token, _ in groupby(path))
        found[text] += float(np.prod(chances[np.arange(len(logits)), path]))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_with_beams_enough_it_is_the_exact_best_of_all_texts(seed: int) -> None:
    logits = frames(seed, steps=6)
    exact = probabilities(logits)
    assert sum(exact.values()) == pytest.approx(1)
    search = PrefixBeamSearch(OUTPUT, num_beams=4**6)
    search.feed(logits)
    assert search.text == max(exact, key=exact.__getitem__)
    assert search.logprob == pytest.approx(np.log(max(exact.values())), rel=1e-10)


def test_few_beams_find_a_lower_bound_and_mostly_the_same_text() -> None:
    same = 0
    for seed in range(40):
        logits = frames(seed, steps=6)
        exact = probabilities(logits)
        search = PrefixBeamSearch(OUTPUT, num_beams=6)
        search.feed(logits)
        assert search.logprob <= np.log(exact[search.text]) + 1e-9
        same += search.text == max(exact, key=exact.__getitem__)
    assert same > 35


def test_the_most_probable_text_need_not_be_that_of_the_best_path() -> None:
    logits = np.log([[0.4, 0.6, 1e-9, 1e-9]] * 2).astype(np.float32)  # nothing: 0.36; "a": 0.16 + 2 · 0.24
    prediction = Prediction({"tokens": logits[None]}, (TokensOutput(steps=2, labels=OUTPUT.labels, blank=1),))
    assert (prediction.text, prediction.transcript(), prediction.transcript(1)) == ("", "a", "")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(0, 40), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_chunks_of_any_sizes_give_the_text_of_the_whole(seed: int, steps: int, cuts: list[int]) -> None:
    logits = frames(seed, steps)
    edges = [0, *sorted(min(cut, steps) for cut in cuts), steps]
    whole, chunked = PrefixBeamSearch(OUTPUT, 3), PrefixBeamSearch(OUTPUT, 3)
    path = BestPath(OUTPUT)
    whole.feed(logits)
    for begin, end in pairwise(edges):
        chunked.feed(logits[begin:end])
        path.feed(logits[begin:end])
    assert (chunked.text, chunked.logprob) == (whole.text, whole.logprob)
    assert path.text == OUTPUT.text(logits.argmax(axis=1).tolist())


def test_a_long_recording_keeps_no_long_beams() -> None:
    search = PrefixBeamSearch(OUTPUT)
    for seed in range(200):
        search.feed(frames(seed, steps=20, scale=4))
    assert len(search.text) > 1000
    assert max(len(beam) for beam in search._beams) < 100


def test_a_token_that_comes_twice_needs_a_blank_in_between() -> None:
    def spelled(ids: list[int]) -> tuple[str, str]:
        search, path = PrefixBeamSearch(OUTPUT), BestPath(OUTPUT)
        for way in (search, path):
            way.feed(np.eye(4, dtype=np.float32)[ids] * 50)
        return search.text, path.text

    assert spelled([0, 0, 2]) == ("ab", "ab")
    assert spelled([0, 1, 0, 0, 1, 3]) == ("aac", "aac")


def test_words_are_joined_and_an_end_token_ends() -> None:
    output = TokensOutput(steps=5, labels=("", "good", "day", "</s>"), separator=" ", blank=0, end=3)
    logits = np.eye(4, dtype=np.float32)[[1, 0, 2, 3, 1]] * 50
    prediction = Prediction({"tokens": logits[None]}, (output,))
    assert prediction.text == prediction.transcript() == "good day"


def test_tokens_that_are_ruled_out_are_never_told() -> None:
    logits = np.full((3, 4), -np.inf, np.float32)
    logits[:, 2] = 0
    search = PrefixBeamSearch(OUTPUT)
    search.feed(logits)
    assert (search.text, search.logprob) == ("b", 0)


@pytest.mark.parametrize("kind", [BestPath, PrefixBeamSearch])
def test_what_is_no_output_of_frames_is_refused(kind: type[BestPath] | type[PrefixBeamSearch]) -> None:
    with pytest.raises(InputError) as caught:
        kind(TokensOutput(steps=3, labels=("a", "b")))
    assert str(caught.value) == (
        "the output 'tokens' is not one of frame labels: got no blank, expected the index of the label that spells "
        "nothing. Fix: name it as `blank` in its TokensOutput, if the model was trained with CTC."
    )
    with pytest.raises(InputError, match="got the blank 7 of 2 labels"):
        kind(TokensOutput(steps=3, labels=("a", "b"), blank=7))
    with pytest.raises(InputError, match=r"these are no frames: got the shape \[3\], expected \[frames, 4\]"):
        kind(OUTPUT).feed(np.zeros(3, np.float32))
    with pytest.raises(InputError, match="the logits of the frames are not finite: got 1 of 8 numbers NaN or infinite"):
        kind(OUTPUT).feed(np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]], np.float32))
    with pytest.raises(InputError, match="a beam search has no beams: got 0, expected 1 or more"):
        PrefixBeamSearch(OUTPUT, num_beams=0)
