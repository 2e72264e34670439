"""The data set of the reference model `dialogue`: a command, written and said, a picture of the room, and a reply.

Commands and replies are those of `home-assistant-intents`. **Speech (eSpeak NG), typing errors and pictures are
synthetic.**
Half of the commands name a room; then the picture shows any room, and does not matter. The others mean the room
that is shown. No sentence and no voice of one split is in another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.dialogue.commands import MAX_LENGTH, PLACES, SHARES, Command, drawn, words
from edgefuse.datasets.dialogue.pictures import picture
from edgefuse.datasets.dialogue.speech import kept, noisy, voices
from edgefuse.datasets.digits.text import misspell
from edgefuse.datasets.sample import MadeSamples, RawInput, Sample, Splits
from edgefuse.datasets.sentiment.speech import expand

START, END = 0, 1
VOCABULARY = ("<start>", "<end>")
STEPS = 12
"""The most tokens of a reply, the end token included."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data set holds.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        commands: of each split, in the order of `SHARES`.
        typing_errors: mean number per command.
        snr_db: range of the signal-to-noise ratio of the sound.
    """

    version: int = 1
    seed: int = 31
    commands: tuple[int, int, int, int] = (3000, 200, 400, 800)
    typing_errors: float = 1.0
    snr_db: tuple[float, float] = (5.0, 30.0)


DEFAULT = Settings()


class DialogueItems(MadeSamples):
    """The samples of one split, each a pure function of its index; of `train`, any number can be drawn.

    Args:
        split: its name.
        settings: of the data set.
        count: of samples; one per command if None.

    Attributes:
        commands: sample i takes the i-th; they start over at their end.
    """

    def __init__(self, split: str, settings: Settings = DEFAULT, count: int | None = None) -> None:
        self.split = split
        self.settings = settings
        self.commands = _commands(split, settings)
        self._count = len(self.commands) if count is None else count

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def command(self, index: int) -> Command:
        """Return the command of a sample."""
        return self.commands[index % len(self.commands)]

    def shown(self, index: int) -> int:
        """Return the number of the room that a sample's picture shows."""
        return int(self._rng(index, 0).integers(len(PLACES["en"])))

    def reply(self, index: int) -> str:
        """Return the reply of a sample."""
        return self.command(index).answer(self.shown(index))

    def _sample(self, index: int) -> Sample:
        rng = self._rng(index, 1)
        text = self.command(index).text
        written = misspell(text, int(rng.poisson(self.settings.typing_errors)), rng)[:MAX_LENGTH]
        said = expand(_speech(self.split, self.settings)[index % len(self.commands)])
        inputs: dict[str, RawInput] = {
            "image": picture(self.shown(index), rng),
            "audio": noisy(said, self.settings.snr_db, rng),
            "text": written,
        }
        return Sample(inputs, ids(self.reply(index)))

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, list(SHARES).index(self.split), purpose, index])


def labels() -> tuple[str, ...]:
    """Return what each token spells."""
    return (*VOCABULARY, *words())


def ids(reply: str) -> list[int]:
    """Return the tokens of a reply with the end token."""
    known = {word: number for number, word in enumerate(labels())}
    return [*(known[word] for word in reply.split()), END]


def items(split: str, settings: Settings = DEFAULT, count: int | None = None) -> DialogueItems:
    """Return the samples of one split.

    Args:
        split: its name.
        settings: of the data set.
        count: of samples; one per command if None.
    """
    return DialogueItems(split, settings, count)


def load(settings: Settings = DEFAULT) -> Splits:
    """Return all parts; the first call fetches the package, and the first sample of a part has its speech synthesised.

    Raises:
        DataError: the package cannot be fetched, or the speech engine fails.
    """
    parts = {split: items(split, settings) for split in SHARES}
    digest = hashlib.sha256(repr(settings).encode())
    for split, part in parts.items():
        digest.update(repr((part.commands, _voices(split, settings))).encode())
    return Splits(**parts, digest=digest.hexdigest())


def guessed(train: Sequence[str], test: Sequence[str]) -> float:
    """Return the token accuracy of guessing without any input: the likeliest token after each beginning of a reply.

    No decoder that is told the tokens before each (as it is when it is judged), and nothing else, can do better.

    Args:
        train: replies to count in.
        test: replies to guess.
    """
    counts: dict[tuple[int, ...], dict[int, int]] = {}
    for reply in map(ids, train):
        for place, token in enumerate(reply):
            after = counts.setdefault(tuple(reply[:place]), {})
            after[token] = after.get(token, 0) + 1
    best = {before: max(after, key=after.__getitem__) for before, after in counts.items()}
    right = [best.get(tuple(r[:place])) == token for r in map(ids, test) for place, token in enumerate(r)]
    return float(np.mean(right))


@lru_cache(maxsize=2 * len(SHARES))
def _commands(split: str, settings: Settings) -> tuple[Command, ...]:
    return drawn(split, settings.commands[list(SHARES).index(split)], settings.seed)


def _voices(split: str, settings: Settings) -> tuple[object, ...]:
    """Return all that decides how the commands of a split sound."""
    return (settings.version, settings.seed, *voices(split))


@lru_cache(maxsize=len(SHARES))
def _speech(split: str, settings: Settings) -> npt.NDArray[np.uint8]:
    """Return the speech of a split, uint8 [commands, SAMPLES], mapped from a file in the cache."""
    commands = _commands(split, settings)
    sentences = [(command.text, command.language) for command in commands]
    key = repr((split, _voices(split, settings), hashlib.sha256(repr(commands).encode()).hexdigest()))
    return kept("dialogue", key, sentences, split, (settings.seed, list(SHARES).index(split), 2))
