"""The data set of `assistant` as it is: sizes, disjoint splits, pure items; needs a Debian package of 161 MB."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from edgefuse.datasets import stamps
from edgefuse.datasets.sample import Splits
from edgefuse.datasets.stamps.phrases import words
from edgefuse.errors import DataError


@pytest.fixture(scope="module")
def splits() -> Splits:
    try:
        return stamps.load()
    except DataError as error:
        pytest.skip(f"not checked: what the data set of 'assistant' holds: {error}")


def test_splits_have_the_stated_sizes(splits: Splits) -> None:
    sizes = {name: len(stamps.items(name)) for name in stamps.SPLITS}
    assert sizes == {"train": 1667, "calibration": 262, "validation": 669, "test": 1082, "known": 228}
    assert [len(part) for part in (splits.calibration, splits.validation, splits.test)] == [262, 669, 1082]
    settings = stamps.Settings()
    assert len(splits.train) == settings.recovery_items + settings.recovery_glosses + settings.recovery_phrases
    assert len(splits.digest) == 64


def test_no_stamp_is_in_two_splits_and_every_category_in_all(splits: Splits) -> None:
    of = {name: stamps.items(name) for name in stamps.SPLITS}
    found = {name: {part.stamp_index(index) for index in range(len(part))} for name, part in of.items()}
    for one, other in combinations(stamps.SPLITS[:4], 2):
        assert not found[one] & found[other]
    assert found["known"] <= found["train"]
    for part in of.values():
        assert len({part.stamp(index).category for index in range(len(part))}) == len(stamps.CATEGORIES)


def test_the_recordings_of_a_stamp_are_one_group(splits: Splits) -> None:
    validation = stamps.items("validation")
    found = {(splits.validation[index].group, validation.stamp_index(index)) for index in range(40)}
    assert 1 < len(found) < 40
    assert len({group for group, _ in found}) == len({stamp for _, stamp in found}) == len(found)


def test_known_recordings_are_not_trained_on(splits: Splits) -> None:
    train, known = stamps.items("train"), stamps.items("known")
    heard = {(train.stamp_index(index), train.language(index)) for index in range(len(train))}
    assert len(heard) == len(train)
    assert not heard & {(known.stamp_index(index), known.language(index)) for index in range(len(known))}


def test_a_turn_of_the_training_items_has_every_recording_once(splits: Splits) -> None:
    count = len(stamps.items("train"))
    train = stamps.items("train", count=2 * count)
    turns = [[(train.stamp_index(i), train.language(i)) for i in range(t * count, (t + 1) * count)] for t in (0, 1)]
    assert turns[0] != turns[1]
    assert Counter(turns[0]) == Counter(turns[1])


def test_inputs_are_raw_and_pure_functions_of_their_index(splits: Splits) -> None:
    for part in (splits.test, splits.train):
        sample, again = part[7], part[7]
        image, audio, text = (sample.inputs[name] for name in ("image", "audio", "text"))
        assert isinstance(image, np.ndarray)
        assert isinstance(audio, np.ndarray)
        assert isinstance(text, str)
        assert (image.shape, str(image.dtype)) == ((160, 160, 3), "uint8")
        assert (audio.shape, str(audio.dtype)) == ((32_000,), "float32")
        assert np.array_equal(image, again.inputs["image"])
        assert np.array_equal(audio, again.inputs["audio"])
        assert text == again.inputs["text"]


def test_items_for_recovery_are_followed_by_texts_alone(splits: Splits) -> None:
    first = stamps.Settings().recovery_items
    assert len(splits.train[first - 1].inputs) == 3
    texts = [str(sample.inputs["text"]) for sample in splits.train[first : first + 50]]
    assert len(set(texts)) == 50
    assert all(0 < len(text.split()) < 15 for text in texts)


def test_phrases_for_recovery_are_words_of_the_tokenizer_and_nothing_else(splits: Splits) -> None:
    settings = stamps.Settings()
    first = settings.recovery_items + settings.recovery_glosses
    drawn = splits.train[first : first + 50]
    assert all(list(sample.inputs) == ["text"] for sample in drawn)
    texts = [str(sample.inputs["text"]) for sample in drawn]
    assert len(set(texts)) == 50
    known = {*words(), "a", "an", "A", "The"}
    assert all(word in known for text in texts for word in text.split())
    assert splits.train[-1].inputs == splits.train[len(splits.train) - 1].inputs
    with pytest.raises(IndexError):
        splits.train[len(splits.train)]


def test_sequences_behave_like_lists(splits: Splits) -> None:
    assert splits.test[-1].target == splits.test[len(splits.test) - 1].target
    assert len(splits.test[10:14]) == 4
    with pytest.raises(IndexError):
        splits.test[len(splits.test)]
