"""Samples for recovery that hold a text and nothing else: distillation takes no labels, so any text can teach."""

from __future__ import annotations

from abc import abstractmethod

from edgefuse.datasets.sample import MadeSamples, Sample


class MadeTexts(MadeSamples):
    """Samples with a text alone, a pure function of seed and index."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def _sample(self, index: int) -> Sample:
        return Sample(inputs={"text": self.text(index)})

    @abstractmethod
    def text(self, index: int) -> str:
        """Return one text."""
