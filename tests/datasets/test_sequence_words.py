"""What is answered follows from the digits, the words and the answers before; needs no package."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.datasets.sequence import words
from edgefuse.datasets.sequence.items import SIZE, _bounced
from edgefuse.datasets.sequence.words import END, LABELS, MEANINGS, answers


def told(digits: list[int], text: str) -> str:
    ids = answers(digits, text.split())
    assert ids[-1] == END
    return " ".join(LABELS[one] for one in ids[:-1])


def test_labels_are_spelled_apart() -> None:
    assert len(set(LABELS)) == len(LABELS) == 32


@pytest.mark.parametrize(
    ("digits", "text", "expected"),
    [
        ([7], "is", "seven"),
        ([7, 5], "is add", "seven two"),
        ([7, 5], "is less", "seven two"),
        ([3, 5], "ist weniger", "drei acht"),
        ([3, 9, 9], "toma repite nochmal", "tres tres drei"),
        ([4, 4, 1], "+ suma -", "four ocho siete"),
        ([4, 6], "- -", "six zero"),
        ([1, 2, 3], "dazu = =", "eins zwei drei"),
    ],
)
def test_answers(digits: list[int], text: str, expected: str) -> None:
    assert told(digits, text) == expected


def test_the_picture_the_word_and_the_answer_before_all_matter() -> None:
    assert told([2, 3], "is +") != told([2, 4], "is +")
    assert told([2, 3], "is +") != told([2, 3], "is -")
    assert told([2, 3], "is +").split()[1] != told([4, 3], "is +").split()[1]
    assert told([2, 3], "is +").split()[1] != told([2, 3], "ist +").split()[1]  # its language


def test_each_word_is_one_token() -> None:
    tokenizer = words.tokenizer()
    ids = tokenizer.encode(" ".join(MEANINGS)).ids
    assert ids == list(range(2, words.vocabulary_size()))
    assert tokenizer.encode("nonsense").ids == [1]


def test_a_digit_that_moves_stays_in_the_frame() -> None:
    for start in np.linspace(-100, 100, 401):
        down, right = _bounced(np.array([start, -start]))
        assert 0 <= down <= SIZE - 20
        assert 0 <= right <= SIZE - 20
