"""What a data set hands to calibration, search, verification and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

RawInput: TypeAlias = npt.NDArray[Any] | str


@dataclass(frozen=True)
class Sample:
    """One labelled item, with its inputs as a pipeline takes them.

    Attributes:
        inputs: per modality name the raw input: an array, or a string for text.
        target: the index of the right class.
    """

    inputs: Mapping[str, RawInput]
    target: int


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of a data set.

    Attributes:
        calibration: what quantization sees.
        validation: what the search sees.
        test: read once, after the choice.
        digest: identifies content and parameters of all three in full, for cache keys.
    """

    calibration: Sequence[Sample]
    validation: Sequence[Sample]
    test: Sequence[Sample]
    digest: str
