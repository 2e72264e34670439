"""Samples and splits: the data for calibration, search, verification and training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy.typing as npt

from edgefuse.errors import DataError

RawInput: TypeAlias = npt.NDArray[Any] | str


@dataclass(frozen=True)
class Sample:
    """One item, with its inputs as a pipeline takes them.

    Attributes:
        inputs: per modality name the raw input: an array, or a string for text.
        target: of the model's first output (a class, numbers, ids, text), or a mapping from names of outputs to
            targets; None where nobody knows it.
        group: what the item is of, if other items are of the same (recordings of one thing, pictures of one patient):
            they belong together, in one split, and count as one draw in intervals. None is an item of its own.
    """

    inputs: Mapping[str, RawInput]
    target: Any = None
    group: str | int | None = None


class MadeSamples(Sequence[Sample], ABC):
    """Samples that are made when asked for, each a pure function of its index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def _sample(self, index: int) -> Sample:
        """Make one sample; the index is from 0 to the number of samples."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return one sample, or a list of them for a slice."""
        count = len(self)
        if isinstance(index, slice):
            return [self._sample(place) for place in range(*index.indices(count))]
        if not -count <= index < count:
            raise IndexError(index)
        return self._sample(index % count)


@dataclass(frozen=True)
class Splits:
    """Disjoint parts of a data set.

    Attributes:
        calibration: what quantization sees.
        validation: what the search sees.
        test: read once, after the choice.
        digest: identifies content and parameters of all parts in full, for cache keys.
        train: what pruned stages recover on, by distillation; labels are not used.
        unlabelled: what the search sees besides the validation set, without targets: items of the same kind, which
            neither the model was trained on nor stages recover or are calibrated on. Of use for the accuracy of
            classes: see `edgefuse.compiler.evaluation.expected_drop`.
    """

    calibration: Sequence[Sample]
    validation: Sequence[Sample]
    test: Sequence[Sample]
    digest: str
    train: Sequence[Sample] = ()
    unlabelled: Sequence[Sample] = ()


def samples(targets: Sequence[Any], **inputs: Sequence[RawInput | None]) -> list[Sample]:
    """Pair the columns of a data set, which `zip` would cut to the shortest without a word.

    Args:
        targets: one per sample.
        inputs: per modality one raw input per sample, in the order of the targets; None where a sample lacks it.

    Raises:
        DataError: if a column is shorter or longer than the others.
    """
    lengths = {"targets": len(targets)} | {name: len(column) for name, column in inputs.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            "the columns of a data set differ in length",
            got=", ".join(
                f"{length} {name}" if name == "targets" else f"{length} of '{name}'" for name, length in lengths.items()
            ),
            expected="one entry of each for every sample",
            fix="pair them anew, with None where a sample lacks a modality",
        )
    return [
        Sample({name: raw for name, column in inputs.items() if (raw := column[i]) is not None}, targets[i])
        for i in range(len(targets))
    ]
