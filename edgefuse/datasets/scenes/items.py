"""The data sets of `vqa` and `captioning`: composed scenes, with questions or sentences about them.

Pictures of things: real, of MNIST and Fashion-MNIST. Their composition, colours, questions, answers and sentences:
**synthetic**. No picture of a thing in one split is in another. An item is a pure function of its split and index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgefuse.datasets.digits.pool import SPLITS
from edgefuse.datasets.sample import MadeSamples, RawInput, Sample, Splits
from edgefuse.datasets.scenes.captions import TOKENS, Caption, describe
from edgefuse.datasets.scenes.composition import Scene, draw, render
from edgefuse.datasets.scenes.material import SHARES, Material, Shares, material
from edgefuse.datasets.scenes.questions import Question, ask


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the data sets hold.

    Attributes:
        version: raised whenever the code changes what the same settings give.
        seed: of every draw.
        shares: of the pictures of things.
        scenes: of the calibration, validation and test split.
        recovery_scenes: training scenes that `load_questions` and `load_captions` give for recovery after pruning.
        questions: about each scene.
    """

    version: int = 1
    seed: int = 26
    shares: Shares = SHARES
    scenes: tuple[int, int, int] = (200, 500, 1000)
    recovery_scenes: int = 4000
    questions: int = 2


DEFAULT = Settings()


class Scenes:
    """The scenes of one split; any number can be drawn.

    Args:
        split: its name.
        settings: of the data sets.
    """

    def __init__(self, split: str, settings: Settings = DEFAULT) -> None:
        self.split = split
        self._settings = settings
        self._material = _material(split, settings)

    def scene(self, index: int) -> Scene:
        """Return what is where."""
        return draw(self._material, self._rng(index, 0))

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the picture of a scene, uint8 [96, 96, 3]."""
        return render(self.scene(index), self._material, self._rng(index, 1))

    def question(self, index: int, number: int = 0) -> Question:
        """Return a question about a scene, one of any number."""
        return ask(self.scene(index), self._rng(index, 2, number))

    def caption(self, index: int, number: int = 0) -> Caption:
        """Return a sentence about a scene, one of any number."""
        return describe(self.scene(index), self._rng(index, 3, number))

    def _rng(self, index: int, purpose: int, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, SPLITS.index(self.split), index, purpose, number])


class QuestionItems(MadeSamples):
    """Pictures with questions, several in a row about each scene; the target is the place of the answer.

    Args:
        scenes: of a split.
        count: of scenes.
        each: questions about each.

    Attributes:
        scenes: of the split.
        scene_count: how many of them.
        each: questions about each.
    """

    def __init__(self, scenes: Scenes, count: int, each: int) -> None:
        self.scenes = scenes
        self.scene_count = count
        self.each = each

    def __len__(self) -> int:
        """Return the number of questions."""
        return self.scene_count * self.each

    def questions(self) -> Iterator[Question]:
        """Yield the questions of all items."""
        return (self.scenes.question(*divmod(index, self.each)) for index in range(len(self)))

    def _sample(self, index: int) -> Sample:
        scene, number = divmod(index, self.each)
        question = self.scenes.question(scene, number)
        inputs: dict[str, RawInput] = {"image": self.scenes.picture(scene), "question": question.text}
        return Sample(inputs, question.target, f"{self.scenes.split} {scene}")


class CaptionItems(MadeSamples):
    """Pictures with the beginning of a sentence; the target is the ids of the sentence, its end included.

    Args:
        scenes: of a split.
        count: of scenes.
    """

    def __init__(self, scenes: Scenes, count: int) -> None:
        self.scenes = scenes
        self._count = count

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._count

    def _sample(self, index: int) -> Sample:
        caption = self.scenes.caption(index)
        target = np.array(caption.ids, np.int32)
        return Sample({"image": self.scenes.picture(index), "prefix": caption.prefix}, target)


def question_items(split: str, settings: Settings = DEFAULT) -> QuestionItems:
    """Return the pictures with questions of one split."""
    return QuestionItems(Scenes(split, settings), _count(split, settings), settings.questions)


def caption_items(split: str, settings: Settings = DEFAULT) -> CaptionItems:
    """Return the pictures with sentences of one split."""
    return CaptionItems(Scenes(split, settings), _count(split, settings))


def load_questions(settings: Settings = DEFAULT) -> Splits:
    """Return all parts of the data set of `vqa`; the first call fetches the pictures of things.

    Raises:
        DataError: a package cannot be fetched.
    """
    return Splits(**{split: question_items(split, settings) for split in SPLITS}, digest=_digest("questions", settings))


def load_captions(settings: Settings = DEFAULT) -> Splits:
    """Return all parts of the data set of `captioning`; the first call fetches the pictures of things.

    Raises:
        DataError: a package cannot be fetched.
    """
    return Splits(**{split: caption_items(split, settings) for split in SPLITS}, digest=_digest("captions", settings))


def _count(split: str, settings: Settings) -> int:
    return (settings.recovery_scenes, *settings.scenes)[SPLITS.index(split)]


@lru_cache(maxsize=2 * len(SPLITS))
def _material(split: str, settings: Settings) -> Material:
    return material(split, settings.shares, settings.seed)


def _digest(name: str, settings: Settings) -> str:
    found = hashlib.sha256(repr((name, settings, TOKENS)).encode())
    for split in SPLITS:
        found.update(_material(split, settings).digest().encode())
    return found.hexdigest()
