"""The data set `clothing`: disjoint splits, a long tail, pure items, texts; one test needs the package of pictures."""

from __future__ import annotations

import gzip
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.datasets import clothing
from edgefuse.datasets.clothing import names, pictures
from edgefuse.datasets.digits import speech
from edgefuse.datasets.stamps import debian
from edgefuse.errors import DataError

SMALL = clothing.Settings(most=40, fewest=2, pictures=(10, 20, 30), recovery_items=5, takes=(1, 1, 1, 1))
PLAIN = names.tokenizer()


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return an array in the format IDX."""
    return np.array([0x800 + values.ndim, *values.shape], ">i4").tobytes() + values.tobytes()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data of made-up pictures, each of one grey level and its number, and silent voices."""
    rng = np.random.default_rng(0)

    def part(count: int, name: str) -> dict[str, bytes]:
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(1, 255, (count, 28, 28), np.uint8)
        return {
            f"{pictures._FOLDER}{name}-images-idx3-ubyte.gz": gzip.compress(idx(images)),
            f"{pictures._FOLDER}{name}-labels-idx1-ubyte.gz": gzip.compress(idx(labels)),
        }

    def speak(split: str, said: object, *, takes: int, seed: int) -> speech.Clips:
        pcm = np.tile(np.array([0, 900, -900, 300], np.int16), 10)
        return speech.Clips(pcm, np.arange(4, 44, 4), np.arange(10))

    files = part(600, "train") | part(200, "t10k")
    monkeypatch.setattr(debian, "members", lambda *_: files)
    monkeypatch.setattr(speech, "speak", speak)
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_training_has_a_long_tail_and_the_other_splits_are_balanced(made: None) -> None:
    counts = {split: np.bincount(clothing.pool(split, SMALL).labels, minlength=10) for split in clothing.SPLITS}
    assert counts["train"].tolist() == SMALL.counts()
    assert (SMALL.counts()[0], SMALL.counts()[-1]) == (40, 2)
    assert sorted(SMALL.counts(), reverse=True) == SMALL.counts()
    for split, each in zip(clothing.SPLITS[1:], (1, 2, 3), strict=True):
        assert counts[split].tolist() == [each] * 10


def test_no_picture_is_in_two_splits(made: None) -> None:
    found = [{p.tobytes() for p in clothing.pool(split, SMALL).pictures} for split in clothing.SPLITS]
    assert [len(part) for part in found] == [sum(SMALL.counts()), 10, 20, 30]
    for one, other in combinations(found, 2):
        assert not one & other


def test_items_are_raw_and_pure_functions_of_their_index(made: None) -> None:
    splits = clothing.load(SMALL)
    assert [len(part) for part in (splits.train, splits.calibration, splits.validation, splits.test)] == [5, 10, 20, 30]
    sample, again = splits.test[3], clothing.load(SMALL).test[3]
    image, text, audio = (sample.inputs[name] for name in ("image", "text", "audio"))
    assert isinstance(image, np.ndarray)
    assert isinstance(audio, np.ndarray)
    assert (image.shape, str(image.dtype)) == ((64, 64), "uint8")
    assert (audio.shape, str(audio.dtype)) == ((16_000,), "float32")
    assert np.array_equal(image, again.inputs["image"])
    assert np.array_equal(audio, again.inputs["audio"])
    assert text == again.inputs["text"]
    assert sample.target == again.target
    assert not np.array_equal(image, splits.validation[3].inputs["image"])
    assert splits.digest != clothing.load(clothing.Settings(most=40, fewest=2, pictures=(10, 20, 30), vague=0.5)).digest


def test_the_real_pictures_are_there_in_their_numbers() -> None:
    try:
        pool = clothing.pool("test")
    except DataError as error:
        pytest.skip(f"not checked: the content of the package of pictures: {error}")
    assert pool.pictures.shape == (2000, 28, 28)
    assert np.bincount(pool.labels).tolist() == [200] * 10
    heights = [(pool.pictures[pool.labels == label].max(axis=2) > 30).sum(axis=1).mean() for label in (1, 5)]
    assert heights[0] > 26 > 20 > heights[1]  # trousers fill the picture from top to bottom, sandals do not


@pytest.mark.parametrize(
    "damage", [b"", b"\x00\x00\x08\x03", idx(np.zeros((2, 2, 2), np.uint8))[:-1], idx(np.zeros(4, np.uint8))]
)
def test_a_file_that_is_no_pictures_is_refused(damage: bytes) -> None:
    with pytest.raises(DataError, match="not in the format IDX"):
        pictures.read(damage, 0x803)


@given(st.integers(0, 9), st.floats(0, 1), st.floats(0, 9), st.integers(0, 2**32))
def test_texts_begin_with_the_first_token_and_fit(label: int, vague: float, errors: float, seed: int) -> None:
    written = names.write(label, np.random.default_rng(seed), vague=vague, mean_errors=errors)
    encoded = PLAIN.encode(written)
    assert encoded.tokens[0] == names.FIRST
    assert 1 < len(encoded.ids) <= names.MAX_LENGTH
    assert max(encoded.ids) < names.vocabulary_size()


def test_without_errors_a_text_names_the_thing_or_its_kind() -> None:
    rng = np.random.default_rng(0)
    for label, (called, kind) in enumerate(zip(names.NAMES, names.KINDS, strict=True)):
        assert all(kind in names.write(label, rng, vague=1.0, mean_errors=0.0) for _ in range(9))
        plain = [names.write(label, rng, vague=0.0, mean_errors=0.0) for _ in range(60)]
        assert all(any(name in text for name in called) for text in plain)
        assert all(any(name in text for text in plain) for name in called)  # each of its names
