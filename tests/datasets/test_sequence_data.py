"""Clips are of real digits, no picture of one split is in another; needs the package that carries the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.datasets import sequence
from edgefuse.datasets.digits import images
from edgefuse.datasets.sequence.items import FRAMES, SIZE, _share
from edgefuse.datasets.sequence.words import answers
from edgefuse.errors import DataError


@pytest.fixture(scope="module", autouse=True)
def fetched() -> None:
    try:
        images.pictures()
    except DataError as error:
        pytest.skip(f"not checked: the clips of digits: {error}")


def test_an_item_depends_on_its_split_and_index_alone() -> None:
    items = sequence.items("test")
    for index in (0, 3, len(items) - 1):
        one, other = items[index], sequence.items("test")[index]
        clip, text = one.inputs["video"], one.inputs["text"]
        assert isinstance(clip, np.ndarray)
        assert isinstance(text, str)
        assert np.array_equal(clip, other.inputs["video"])
        assert text == other.inputs["text"]
        assert clip.dtype == np.uint8
        assert clip.shape == (len(text.split()), SIZE, SIZE, 1)
        assert one.target == answers(items.digits(index), text.split())
    assert sequence.load().digest == sequence.load().digest


def test_clips_are_of_all_lengths_and_show_all_digits() -> None:
    items = sequence.items("validation")
    assert {len(items.words(index)) for index in range(200)} == set(range(3, FRAMES + 1))
    assert {digit for index in range(200) for digit in items.digits(index)} == set(range(10))


def test_splits_share_no_picture() -> None:
    _, digits = images.pictures()
    parts = _share(digits, sequence.Settings())
    assert [len(part) for part in parts] == [3200, 200, 400, 1200]
    assert len(set(np.concatenate(parts).tolist())) == 5000


def test_a_split_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="there is no split 'dev': expected train or calibration or validation or test"):
        sequence.items("dev")
