"""Sentences about a scene and their beginnings, all **synthetic**, and what can be guessed without looking."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgefuse.datasets.scenes.composition import Scene, Thing
from edgefuse.datasets.scenes.names import COLOURS, END, KINDS, RELATIONS, SPECIAL, START, article, vocabulary

_TAILS = {2: "", 3: " and one more thing", 4: " and two more things"}
TOKENS = vocabulary([*" ".join([*RELATIONS, *_TAILS.values(), "a an"]).split(), *KINDS, *COLOURS])
"""The vocabulary of captions and their beginnings."""

STEPS = 13
"""Tokens of a caption, at the most, its end included."""

PREFIX_LENGTH = 5
"""Tokens of a beginning, at the most."""

_LAST = 4


@dataclass(frozen=True)
class Caption:
    """A sentence about a scene.

    Attributes:
        text: of it.
        prefix: its first words.
    """

    text: str
    prefix: str

    @property
    def ids(self) -> tuple[int, ...]:
        """Its tokens, the end included, as places in `TOKENS`."""
        return (*(TOKENS.index(word) for word in self.text.split()), END)


def truths(scene: Scene) -> set[str]:
    """Return all sentences of our form that are true of a scene."""
    return {_sentence(scene, *pair) for pair in scene.pairs()}


def describe(scene: Scene, rng: np.random.Generator) -> Caption:
    """Say where one thing of a scene is, beside or above which, and how many more there are.

    Which of them it begins with is drawn, and so is how much of the sentence is its beginning: two words ("a red"), the
    whole thing, or all up to the second thing.
    """
    pairs = list(scene.pairs())
    subject, relation, thing = pairs[int(rng.integers(len(pairs)))]
    begin = _named(subject)
    text = _sentence(scene, subject, relation, thing)
    prefixes = (" ".join(begin.split()[:2]), begin, f"{begin} {relation}")
    return Caption(text, prefixes[int(rng.integers(len(prefixes)))])


def _sentence(scene: Scene, subject: Thing, relation: str, thing: Thing) -> str:
    return f"{_named(subject)} {relation} {_named(thing)}{_TAILS[len(scene.things)]}"


def _named(thing: Thing) -> str:
    return f"{article(thing.colour)} {thing.colour} {thing.kind}"


class Guess:
    """The most frequent caption of those seen, token after token, given what came before and no picture.

    What came before is all of it, or, where that was never seen, as many of its last four tokens as were.

    Args:
        seen: captions.
        prefixed: whether a caption's beginning is known from the start.
    """

    def __init__(self, seen: Iterable[Caption], prefixed: bool) -> None:
        self._prefixed = prefixed
        counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for caption in seen:
            told = (START, *caption.ids)
            for place, token in enumerate(caption.ids, start=1):
                for start in {0, *range(max(0, place - _LAST), place + 1)}:
                    counts[told[start:place]][token] += 1
        self._next: Mapping[tuple[int, ...], int] = {
            before: min(found, key=lambda token: (-found[token], token)) for before, found in counts.items()
        }

    def tokens(self, caption: Caption) -> list[int]:
        """Return a guess at every token of a caption, each from the right ones before it."""
        known = len(caption.prefix.split()) if self._prefixed else 0
        ids = caption.ids
        return [*ids[:known], *(self._after(ids[:place]) for place in range(known, len(ids)))]

    def sentence(self, caption: Caption) -> list[int]:
        """Return a guess at the whole caption, without its end."""
        told = list(caption.ids[: len(caption.prefix.split())] if self._prefixed else ())
        while len(told) < STEPS - 1 and (token := self._after(tuple(told))) != END:
            told.append(token)
        return told

    def _after(self, before: Sequence[int]) -> int:
        """Return the most frequent token after the longest end of what came before that was seen."""
        told = (START, *before)
        return next(self._next[told[start:]] for start in range(len(told) + 1) if told[start:] in self._next)


def spelled(ids: Iterable[int]) -> str:
    """Return the text of tokens, up to the end."""
    words: list[str] = []
    for token in ids:
        if token == END:
            break
        words.append(TOKENS[token] if token >= len(SPECIAL) else SPECIAL[token])
    return " ".join(words)
