"""What `report.json` holds, as types: the compiler fills it in, `report_html` shows it.

Ratios are "how many times better": a speed-up of 2 takes half the time, a size ratio of 3 takes a third of the bytes.
Accuracies, drops and budgets are fractions where the metric is one; a drop is reference minus rung, so positive means
lost. Subsets of modalities are spelled `image+audio`. Unknown keys are ignored: a newer compiler may write more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from edgefuse.errors import EdgefuseError

Interval: TypeAlias = tuple[float, float]
SCHEMA = 1


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The base of everything in a report."""


class Gain(Part, frozen=True, kw_only=True):
    """A ratio of two paired measurements with its 95 % interval."""

    ratio: float
    ci95: Interval | None = None


class Reference(Part, frozen=True, kw_only=True):
    """The full-precision model in its own framework.

    `accuracy` is by subset, over `items` test items; `stages_ms` is the p50 of each stage alone, in eager mode.
    """

    runtime: str
    threads: int
    p50_ms: float
    size_bytes: int
    metric: str
    accuracy: dict[str, float]
    items: int
    stages_ms: dict[str, float] = {}


class StageChoice(Part, frozen=True, kw_only=True):
    """What a rung runs for one stage; `pruned` is the fraction removed, or whether any was."""

    scheme: str
    pruned: bool | float | None = None


class RungReport(Part, frozen=True, kw_only=True):
    """A rung as measured: `speedup` is over the reference, `speedup_over_float` over its own float stages."""

    name: str
    objective: str
    stages: dict[str, StageChoice]
    accuracy: dict[str, float]
    drop_ci95: dict[str, Interval]
    p50_ms: float
    speedup: Gain
    speedup_over_float: Gain
    size_bytes: int
    size_ratio: float
    peak_rss_bytes: int | None = None


class BundleReport(Part, frozen=True, kw_only=True):
    """One target's bundle; sizes of floats and rungs are those of stage files, frontends apart."""

    target: str
    path: str
    size_bytes: int
    within_budget: bool
    float_p50_ms: float
    float_size_bytes: int
    rungs: tuple[RungReport, ...]


class Judged(Part, frozen=True, kw_only=True):
    """A combination of candidates that got a fusion pass over the validation set."""

    target: str
    stages: dict[str, str]
    p50_ms: float
    size_bytes: int
    drop: dict[str, float]
    within_budget: bool


class SearchReport(Part, frozen=True, kw_only=True):
    """How much work the search did."""

    candidates: int
    fusion_passes: int
    seconds: float
    judged: tuple[Judged, ...] = ()


class GoldenRow(Part, frozen=True, kw_only=True):
    """A file against torch on the golden inputs; `tolerance` holds the fields of the manifest's."""

    target: str
    stage: str
    candidate: str
    max_abs_error: float | None = None
    snr_db: float | None = None
    tolerance: dict[str, float | None] = {}
    ok: bool


class CandidateReport(Part, frozen=True, kw_only=True):
    """A candidate of one stage, measured alone; `speedup` is over the same stage in float."""

    target: str
    stage: str
    candidate: str
    scheme: str
    p50_ms: float | None = None
    float_p50_ms: float | None = None
    speedup: Gain | None = None
    size_bytes: int | None = None
    float_size_bytes: int | None = None
    snr_db: float | None = None
    chosen_by: tuple[str, ...] = ()
    excluded: str | None = None


class ModelReport(Part, frozen=True, kw_only=True):
    """What was compiled."""

    name: str
    description: str = ""
    stages: tuple[str, ...] = ()
    parameters: int | None = None


class MachineReport(Part, frozen=True, kw_only=True):
    """What it was measured on."""

    cpu: str
    cores: int
    architecture: str = ""
    features: tuple[str, ...] = ()
    runtimes: dict[str, str] = {}
    threads: int | None = None


class Budget(Part, frozen=True, kw_only=True):
    """What was allowed."""

    max_drop: float
    objective: str = "latency"


class Report(Part, frozen=True, kw_only=True):
    """The whole report; what has a default may be missing."""

    schema: int = SCHEMA
    reference: Reference
    bundles: tuple[BundleReport, ...]
    search: SearchReport | None = None
    golden: tuple[GoldenRow, ...] = ()
    model: ModelReport | None = None
    machine: MachineReport | None = None
    budget: Budget | None = None
    stages: tuple[CandidateReport, ...] = ()
    method: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""


def parse(report: Mapping[str, Any]) -> Report:
    """Check a report as read from JSON and return it typed; `EdgefuseError` if it is wrong or of another schema."""
    try:
        typed = msgspec.convert(report, Report)
    except msgspec.ValidationError as error:
        raise EdgefuseError(
            "this is not a report that edgefuse wrote", got=str(error), fix="pass the content of a report.json as it is"
        ) from error
    if typed.schema != SCHEMA:
        raise EdgefuseError(
            "the report is of another version",
            got=f"schema {typed.schema}",
            expected=f"schema {SCHEMA}",
            fix="read it with the version of edgefuse that wrote it",
        )
    return typed
