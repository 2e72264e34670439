"""What is told of a model: how it was taken apart, and what each target made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgefuse.compiler.report.schema import Report, parse
from edgefuse.stages.found import Found
from edgefuse.typed_json import decode


class Target(msgspec.Struct, kw_only=True):
    """What became of a model for one target.

    Attributes:
        compiled: whether there is a bundle.
        seconds: that the compile took.
        max_abs_error: the largest of a float stage file against torch, on inputs like the samples.
        speedup_over_float: of the default rung over the float files in the same runtime.
        speedup_single_stage: of the default rung over that of the same model compiled as one stage, interleaved; None
            where that was not asked for, or there is one stage only.
        schemes: of the default rung, by stage.
        error: why there is no bundle.
    """

    compiled: bool = False
    seconds: float = 0.0
    max_abs_error: float | None = None
    speedup_over_float: float | None = None
    speedup_single_stage: float | None = None
    schemes: dict[str, str] = {}
    error: str | None = None


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
    return Target(
        compiled=True,
        seconds=round(seconds, 1),
        max_abs_error=max(errors, default=None),
        speedup_over_float=round(rung.speedup_over_float.ratio, 3),
        schemes={stage: choice.scheme for stage, choice in rung.stages.items()},
    )
