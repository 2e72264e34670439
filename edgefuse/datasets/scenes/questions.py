"""Questions about a scene with their answers, all **synthetic**, and what can be guessed without looking.

The wording of a question alone must not give its answer away: things, colours and places are drawn alike, every second
"is there" is answered by "no", and one in eight questions for what is beside a thing by "nothing".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgefuse.datasets.scenes.composition import Scene
from edgefuse.datasets.scenes.names import ANSWERS, COLOURS, DIGITS, KINDS, NOTHING, RELATIONS, article, vocabulary

WORDINGS = {
    "colour": ("what colour is the {}?", "which colour does the {} have?"),
    "thing": ("what is {}?", "which thing is {}?"),
    "relation": ("what is {} the {}?", "what do you see {} the {}?"),
    "count": ("how many {} are there?", "how many {} do you see?"),
    "presence": ("is there {} {}?", "do you see {} {}?"),
}
"""By what is asked for."""

MAX_LENGTH = 10
"""Tokens of a question, at the most."""

_COUNTED = ("digits", "clothes", "things")
_NOTHING_SHARE = 1 / 8


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: as it is asked.
        answer: one of `ANSWERS`.
        about: a key of `WORDINGS`.
    """

    text: str
    answer: str
    about: str

    @property
    def target(self) -> int:
        """The place of the answer in `ANSWERS`."""
        return ANSWERS.index(self.answer)


def ask(scene: Scene, rng: np.random.Generator) -> Question:
    """Draw a question about a scene."""
    about = list(WORDINGS)[int(rng.integers(len(WORDINGS)))]
    words, answer = _ASKED[about](scene, rng)
    wordings = WORDINGS[about]
    return Question(wordings[int(rng.integers(len(wordings)))].format(*words), answer, about)


def tokens() -> tuple[str, ...]:
    """Return the vocabulary of all questions."""
    wordings = " ".join(wording for wordings in WORDINGS.values() for wording in wordings)
    words = wordings.replace("{}", " ").replace("?", " ? ").split()
    relations = " ".join(RELATIONS).split()
    return vocabulary([*words, *relations, *KINDS, *COLOURS, *_COUNTED, "a", "an"])


def guesses(asked: Iterable[Question]) -> Mapping[str, str]:
    """Return the most frequent answer to each question, by its text; "" stands for any other."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in asked:
        counts[question.text][question.answer] += 1
        counts[""][question.answer] += 1
    return {text: min(found, key=lambda answer: (-found[answer], answer)) for text, found in counts.items()}


def guessed(guess: Mapping[str, str], asked: Iterable[Question]) -> float:
    """Return the share of questions that `guesses` answers rightly: the accuracy of the question alone."""
    return float(np.mean([guess.get(question.text, guess[""]) == question.answer for question in asked]))


def _colour(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    return (thing.kind,), thing.colour


def _thing(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    return (thing.colour,), thing.kind


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    if rng.random() < _NOTHING_SHARE:
        free = [(r, thing) for thing in scene.things for r in RELATIONS if scene.beside(thing, r) is None]
        relation, thing = free[int(rng.integers(len(free)))]
        return (relation, thing.kind), NOTHING
    pairs = list(scene.pairs())
    subject, relation, thing = pairs[int(rng.integers(len(pairs)))]
    return (relation, thing.kind), subject.kind


def _count(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    digits = sum(thing.is_digit for thing in scene.things)
    counts = (digits, len(scene.things) - digits, len(scene.things))
    which = int(rng.integers(len(_COUNTED)))
    return (_COUNTED[which],), DIGITS[counts[which]]


def _presence(scene: Scene, rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    there = [thing.kind for thing in scene.things]
    is_there = bool(rng.integers(2))
    digits = bool(rng.integers(2))  # asked for as often as clothes, there or not
    chosen = [kind for kind in KINDS if (kind in there) == is_there and (kind in DIGITS) == digits]
    chosen = chosen or [kind for kind in KINDS if (kind in there) == is_there]
    kind = chosen[int(rng.integers(len(chosen)))]
    return (article(kind), kind), "yes" if is_there else "no"


_ASKED = {"colour": _colour, "thing": _thing, "relation": _relation, "count": _count, "presence": _presence}
