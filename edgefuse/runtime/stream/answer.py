"""A prediction at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgefuse.runtime.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Answer(Prediction):
    """What a stream answers: a prediction, and what it is of.

    Attributes:
        time_s: that it is for, on the time of the stream.
        ages: by modality that was present, seconds from its newest data to that time; below 0 where they are newer.
        latency_s: from when it was due (the data had come) to the answer, by the clock of this machine.
        missed: whether that was more than the stream's deadline.
        rung: that answered.
    """

    time_s: float
    ages: Mapping[str, float]
    latency_s: float
    missed: bool
    rung: str
