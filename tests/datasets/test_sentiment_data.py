"""The real sentences are those that were counted; needs the package that carries them (2.5 MB)."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from edgefuse.datasets import sentiment
from edgefuse.errors import DataError

RECORD = Path(__file__).parents[2] / "examples" / "sentiment" / "training.json"


@pytest.fixture(scope="module", autouse=True)
def fetched() -> None:
    try:
        sentiment.sentences()
    except DataError as error:
        pytest.skip(f"not checked: the rated sentences: {error}")


def test_sentences_are_those_of_the_record() -> None:
    record = json.loads(RECORD.read_text())["data"]
    everything = sentiment.sentences()
    assert len(everything) == record["sentences"]
    assert len({sentence.text.casefold() for sentence in everything}) == len(everything)
    band = record["settings"]["neutral_band"]
    assert sum(abs(sentence.rating) < band for sentence in everything) == sum(record["in_neutral_band"].values())
    assert {split: len(part) for split, part in sentiment.dealt().items()} == {
        split: part["sentences"] for split, part in record["splits"].items()
    }
    assert sentiment.load().digest == record["digest"]


def test_splits_share_no_sentence_and_no_review() -> None:
    for one, other in combinations(sentiment.dealt().values(), 2):
        assert not {sentence.group for sentence in one} & {sentence.group for sentence in other}
        assert not {sentence.text for sentence in one} & {sentence.text for sentence in other}
