"""Inputs and results of the search: figures of candidates, drops, limits, judged combinations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import Record
from edgefuse.runtime.pressure import Pressure

Objective: TypeAlias = Literal["latency", "size", "memory", "accuracy"]
"""What a winner minimises; `accuracy` is the smallest drop at no more than the float latency."""

Combination: TypeAlias = Mapping[str, str]
"""Stage name to candidate id."""

Floats: TypeAlias = npt.NDArray[np.float64]

FLOAT_SCHEME = "float"


class StageFigure(Record, frozen=True, kw_only=True):
    """The figures of one candidate, measured alone.

    Attributes:
        p50_ci95: the 95 % interval of the median, wider where the machine was busy.
        size_bytes: of the file; 0 for a frontend, which all rungs share.
        speedup: of the unpruned float file of the stage over this one, interleaved, with its 95 % interval.
        snr_db: signal-to-noise of the stage's output against unpruned torch fp32, on the validation set.
        is_float: whether this is the unpruned float file.
        pruning: the id of the pruning; empty for the unpruned stage.
        memory_bytes: what the stage needs while it runs; 0 if it was not measured.
        mac: multiply-accumulates of one inference.
        bytes_moved: read and written by one inference.
        pressure: what else the machine did while it was timed.
        file: the hash of the file: stages that are one module share it, and it is stored and opened once; empty if it
            is not known.
    """

    stage: str
    candidate: str
    scheme: str
    p50: float
    p50_ci95: tuple[float, float]
    speedup: float
    speedup_ci95: tuple[float, float]
    size_bytes: int
    snr_db: float
    is_float: bool
    pruning: str = ""
    memory_bytes: int = 0
    mac: int = 0
    bytes_moved: int = 0
    pressure: Pressure = msgspec.field(default_factory=Pressure)
    file: str = ""

    @property
    def slower_than_float(self) -> bool:
        """Whether it is not shown to be faster than the unpruned float file."""
        return not self.is_float and self.speedup_ci95[0] <= 1.0

    @property
    def noise(self) -> float:
        """The amplitude of the noise over that of the signal; 0 for the unpruned float file."""
        return 0.0 if self.is_float else float(10 ** (-self.snr_db / 20))


def once_a_file(figures: Iterable[StageFigure]) -> list[StageFigure]:
    """Return the figures of a combination without those of a file that an earlier stage runs, too."""
    found: dict[str, StageFigure] = {}
    for figure in figures:
        found.setdefault(figure.file or figure.candidate, figure)
    return list(found.values())


class SubsetDrop(Record, frozen=True, kw_only=True):
    """How much of the metric a combination loses in one subset: reference minus candidate, paired."""

    drop: float
    low: float
    high: float

    @property
    def standard_error(self) -> float:
        """A quarter of the 95 % interval, nearly."""
        return (self.high - self.low) / (2 * 1.96)


Drops: TypeAlias = Mapping[str, SubsetDrop]


class Judged(Record, frozen=True, kw_only=True):
    """A combination that got a fusion pass.

    Attributes:
        p50: the sum over the stages.
        size_bytes, memory_bytes: sums over the files (their sessions are open at the same time).
        drops: by subset.
        excess: the largest cautious drop of a subset that the budget binds, less the budget.
        worst_drop: that largest cautious drop (drop plus one standard error, decision 015), in the unit of the budget.
        overrun: how far the tightest other limit is missed, as a share of it; 0 if all are held.
    """

    candidates: dict[str, str]
    p50: float
    size_bytes: int
    drops: dict[str, SubsetDrop]
    excess: float
    worst_drop: float = 0.0
    memory_bytes: int = 0
    overrun: float = 0.0

    @property
    def within_budget(self) -> bool:
        """Whether every subset that the budget binds holds it, with one standard error to spare, and so do limits."""
        return self.excess <= 0 and self.overrun <= 0

    @property
    def shortfall(self) -> float:
        """The distance to the budget: points of accuracy and shares of limits, as fractions, added up."""
        return self.excess if self.overrun <= 0 else max(self.excess, 0.0) + self.overrun

    @property
    def name(self) -> str:
        """The candidates in a fixed order, which breaks the last tie."""
        return " ".join(sorted(self.candidates.values()))


@dataclass(frozen=True)
class Limits:
    """The limits of a combination besides its drops; `None` is no limit.

    Attributes:
        max_latency_ms: the sum of the stages' medians.
        max_latency_share: the same as a share of the float combination's.
        max_size_bytes: of the stage files, frontends apart.
        max_memory_bytes: the sum of what the stages need.
    """

    max_latency_ms: float | None = None
    max_latency_share: float | None = None
    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None

    def bounds(self, float_p50: float) -> tuple[float, float, float]:
        """Return the limits of latency, size and memory, infinite where there is none.

        Args:
            float_p50: the latency of the float combination.
        """
        latency, share, size, memory = (
            math.inf if limit is None else float(limit)
            for limit in (self.max_latency_ms, self.max_latency_share, self.max_size_bytes, self.max_memory_bytes)
        )
        return min(latency, share * float_p50), size, memory


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        winners: one combination per objective.
        judged: all that got a fusion pass, in that order.
        passes: how many there were.
        encoder_passes: candidates of leaf stages, each of which ran over the validation set once: a sum over stages.
    """

    winners: Mapping[Objective, Judged]
    judged: Sequence[Judged]
    passes: int
    encoder_passes: int = 0
