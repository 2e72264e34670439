"""Reading, dealing and saying rated sentences; needs no package but the speech engine."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.datasets.sentiment import SentimentItems, Settings, speech, splits
from edgefuse.datasets.sentiment.sentences import Sentence, read
from edgefuse.errors import DataError


@pytest.fixture(autouse=True)
def forgotten() -> None:
    splits.dealt.cache_clear()


def made(count: int) -> list[Sentence]:
    """Return sentences of reviews of three, with ratings from -2 to 2."""
    return [Sentence(f"text {i}", (i % 41 - 20) / 10, "product", f"product {i // 3}") for i in range(count)]


def test_a_line_is_an_id_a_rating_and_a_text() -> None:
    content = "1_2\t-0.9\tIt&apos;s ''flat''  &amp; dull.\n12_1\t2.5\tLovely\n"
    first, second = read(content, "product")
    assert first == Sentence('It\'s "flat" & dull.', -0.9, "product", "product 1")
    assert (first.label, second.label, second.group) == (0, 1, "product 12")


@pytest.mark.parametrize("line", ["1\t0.5", "1\tgood\tfine", "1\t0.5\tone\ttwo"])
def test_a_line_of_another_form_is_named(line: str) -> None:
    with pytest.raises(
        DataError, match=r"line 2 of the sentences of kind 'tweet' cannot be read: got .*expected an id"
    ):
        list(read(f"1\t0.5\tfine\n{line}\n", "tweet"))


def test_groups_stay_together_and_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(shares=(0.1, 0.2, 0.3))
    monkeypatch.setattr(splits, "sentences", lambda: made(3000))
    parts = splits.dealt(settings)
    groups = {split: {sentence.group for sentence in part} for split, part in parts.items()}
    assert sum(len(part) for part in groups.values()) == len(set().union(*groups.values()))
    shares = {split: len(part) / 1000 for split, part in groups.items()}
    expected = {"calibration": 0.1, "validation": 0.2, "test": 0.3, "train": 0.4}
    assert shares == pytest.approx(expected, abs=0.06)
    assert min(abs(sentence.rating) for part in parts.values() for sentence in part) == 0.5

    splits.dealt.cache_clear()
    monkeypatch.setattr(splits, "sentences", lambda: made(1500))
    for split, part in splits.dealt(settings).items():
        assert set(part) == set(parts[split]) & set(made(1500))


def test_silence_stays_silence_and_speech_keeps_38_decibels() -> None:
    rng = np.random.default_rng(0)
    pcm = np.clip(rng.laplace(0, 3000, 16_000), -32768, 32767).astype(np.int16)
    back = speech.expand(speech.compress(pcm))
    noise = (back.astype(np.float64) - pcm).std()
    assert 20 * np.log10(pcm.std() / noise) > 36
    assert not speech.expand(speech.compress(np.zeros(5, np.int16))).any()
    assert speech.expand(speech.compress(np.array([-32767, 32767], np.int16))).tolist() == [-32767, 32767]


def test_speech_is_the_same_every_time_and_four_seconds_long() -> None:
    texts = [
        "Dull.",
        "A slow, plodding and altogether forgettable picture that never once finds a reason to exist at all.",
    ]
    first, second = (speech.speak(texts, "calibration", seed=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (2, speech.SAMPLES)
    short, long = speech.expand(first)
    assert not short[3 * speech.SAMPLES // 4 :].any()
    assert long[3 * speech.SAMPLES // 4 :].any()


def test_sentences_that_are_not_said_are_text_alone() -> None:
    part = SentimentItems("train", made(3), np.full((2, speech.SAMPLES), 127, np.uint8))
    assert [sorted(sample.inputs) for sample in part] == [["audio", "text"], ["audio", "text"], ["text"]]
    assert part.spoken == 2
    assert [sentence.text for sentence in part.sentences] == ["text 0", "text 1", "text 2"]
