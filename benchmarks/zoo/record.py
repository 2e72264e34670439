"""What is told of a model: how it was taken apart, and what each target made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgefuse.compiler.report.encoding import parse
from edgefuse.compiler.report.schema import Report
from edgefuse.measure.latency import Latencies
from edgefuse.stages.found import Found
from edgefuse.typed_json import decode

CI95 = tuple[float, float]

SPLIT, SINGLE = "split", "single"
"""What is timed against each other: the stages, and the same model as one."""


class Target(msgspec.Struct, kw_only=True):
    """What became of a model for one target.

    Attributes:
        compiled: whether there is a bundle.
        seconds: that the compile took: making the files, and timing them.
        max_abs_error: the largest of a float stage file against torch, on inputs like the samples.
        speedup_over_float: of the default rung over the float files in the same runtime; None if it was not timed.
        speedup_over_float_ci95: its 95 % interval.
        speedup_single_stage: of the default rung over that of the same model compiled as one stage, interleaved; None
            where that was not asked for, there is one stage only, or none as one stage.
        speedup_single_stage_ci95: its 95 % interval.
        p50_ms: of the default rung, when it was compared with the single stage.
        single_stage_p50_ms: of that.
        single_stage_seconds: that the compile as one stage took.
        single_stage_error: why it does not compile as one stage.
        schemes: of the default rung, by stage.
        busy: what else the machine did while it was timed, in words; empty on a quiet one.
        error: why there is no bundle.
        check: the sentences with which `edgefuse check` foresees that; None where nothing failed.
    """

    compiled: bool = False
    seconds: float = 0.0
    max_abs_error: float | None = None
    speedup_over_float: float | None = None
    speedup_over_float_ci95: CI95 | None = None
    speedup_single_stage: float | None = None
    speedup_single_stage_ci95: CI95 | None = None
    p50_ms: float | None = None
    single_stage_p50_ms: float | None = None
    single_stage_seconds: float | None = None
    single_stage_error: str | None = None
    schemes: dict[str, str] = {}
    busy: tuple[str, ...] = ()
    error: str | None = None
    check: tuple[str, ...] | None = None

    def compare(self, latencies: Latencies) -> None:
        """Set how many times faster it is than the same model as one stage; more than 1 where splitting pays."""
        found = latencies.ratio(SINGLE, SPLIT)
        self.speedup_single_stage = round(found.value, 3)
        self.speedup_single_stage_ci95 = round(found.low, 3), round(found.high, 3)
        self.p50_ms, self.single_stage_p50_ms = (round(latencies.p50_ms(name), 4) for name in (SPLIT, SINGLE))

    def slower_than(self, ratio: float) -> bool:
        """Tell whether its speed over the single stage was shown to be below a ratio: the whole interval is."""
        return self.speedup_single_stage_ci95 is not None and self.speedup_single_stage_ci95[1] < ratio

    def timed(self, later: Target) -> Target:
        """Return what is known once the files that were made are timed."""
        later.seconds = round(self.seconds + later.seconds, 1)
        later.single_stage_error = self.single_stage_error
        if self.single_stage_seconds is not None:
            later.single_stage_seconds = round(self.single_stage_seconds + (later.single_stage_seconds or 0.0), 1)
        return later


class Row(msgspec.Struct, kw_only=True):
    """A model of the zoo.

    Attributes:
        model: its name.
        parameters: of the module, shared ones once.
        single_modality_share: of the multiply-accumulates, those that see one modality.
        stages: that were found.
        targets: what became of it, by target.
        notes: on how it was taken apart, in words.
        error: why it was not compiled for all targets, in the words of edgefuse.
    """

    model: str
    parameters: int = 0
    single_modality_share: float | None = None
    stages: tuple[str, ...] = ()
    targets: dict[str, Target] = {}
    notes: tuple[str, ...] = ()
    error: str | None = None


def found_row(model: str, found: Found) -> Row:
    """Return what is known of a model once its stages are found."""
    return Row(
        model=model,
        parameters=sum(parameter.numel() for parameter in found.module.parameters()),
        single_modality_share=None if found.share is None else round(found.share, 4),
        stages=tuple(stage.spec.name for stage in found.stages),
        notes=found.notes,
    )


def read_report(path: Path) -> Report:
    """Return the report of a compile."""
    return parse(decode(path.read_bytes(), dict[str, Any]))


def from_report(report: Report, target: str, seconds: float) -> Target:
    """Return what a report tells of one target; its first rung is the one that a bundle opens with."""
    bundle = next((bundle for bundle in report.bundles if bundle.target == target), None)
    if bundle is None:
        return Target(seconds=round(seconds, 1), error=report.failed.get(target, "there is no bundle"))
    floats = {(one.stage, one.candidate) for one in report.stages if one.scheme == "float" and not one.pruning}
    errors = [
        row.max_abs_error
        for row in report.golden
        if row.target == target and (row.stage, row.candidate) in floats and row.max_abs_error is not None
    ]
    rung = bundle.rungs[0]
    told = Target(compiled=True, seconds=round(seconds, 1), max_abs_error=max(errors, default=None))
    if report.unit == "ms":  # else the rung is any of those that hold the budget
        gain = rung.speedup_over_float
        told.schemes = {stage: choice.scheme for stage, choice in rung.stages.items()}
        told.speedup_over_float = round(gain.ratio, 3)
        told.speedup_over_float_ci95 = (round(gain.ci95[0], 3), round(gain.ci95[1], 3)) if gain.ci95 else None
    return told
