"""`report.json` and `report.html`: everything that was measured, and how."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import to_builtins

from edgefuse.bundle.manifest import Rung
from edgefuse.bundle.spec import subset_name
from edgefuse.compiler.evaluation.drops import by_subset
from edgefuse.compiler.report import html
from edgefuse.compiler.report.compiled import Compiled, prunings, recovery, removed
from edgefuse.compiler.report.encoding import encode
from edgefuse.compiler.report.judged import OutputReference, OutputRung, SaidReport
from edgefuse.compiler.report.layers import float_layers
from edgefuse.compiler.report.limits import constraints
from edgefuse.compiler.report.modalities import modality_reports
from edgefuse.compiler.report.part import Gain
from edgefuse.compiler.report.schema import (
    BudgetReport,
    BundleReport,
    MachineReport,
    ModelReport,
    Reference,
    Report,
    RungReport,
    StageChoice,
)
from edgefuse.compiler.report.search import candidate_reports, search_report
from edgefuse.compiler.report.text import method, notes, summary
from edgefuse.compiler.report.timings import busy, timing_reports
from edgefuse.compiler.rungs.final import Ratio, Timings
from edgefuse.compiler.timing.timer import FLOAT_RUNG

__all__ = ["Compiled", "Timings", "build", "busy", "encode", "summary", "write"]


def build(made: Compiled, paths: Mapping[str, Path], *, written: bool = True) -> Report:
    """Return the report on bundles.

    Args:
        made: of the compile.
        paths: of the bundles, by target.
        written: whether they lie there; the report inside of a bundle cannot know its size, which is then 0.
    """
    bundles = tuple(_bundle(made, target, path, written) for target, path in paths.items())
    return Report(
        reference=_reference(made),
        bundles=bundles,
        search=search_report(made),
        golden=tuple(made.rows),
        model=_model(made),
        machine=_machine(made),
        budget=_budget(made),
        stages=tuple(line for target in made.results for line in candidate_reports(made, target)),
        method=method(made),
        notes=notes(made, bundles),
        command="edgefuse compile RECIPE.toml -o DIR",
        modalities=tuple(line for target in paths for line in modality_reports(made, target)),
        float_layers=tuple(line for target in paths for line in float_layers(made, target)),
        recoveries=tuple(recovery(one) for one in made.forms.recoveries),
        prunings=prunings(made.forms),
        timings=timing_reports(made),
        failed=dict(made.failed),
        titles={target: result.data.toolchains.title for target, result in made.results.items()},
        unit=made.timings.unit,
        gpu=made.gpu,
    )


def write(folder: Path, report: Report) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into a folder, each in full or not at all."""
    data = encode(report)
    page = html.render(msgspec.json.decode(data))
    paths = (folder / "report.json", folder / "report.html")
    for path, content in zip(paths, (data, page.encode()), strict=True):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644)
        os.replace(file.name, path)  # noqa: PTH105 - pathlib's replace says the same with more words
    return paths


def _budget(made: Compiled) -> BudgetReport:
    subject, budget = made.subject, made.subject.budget
    first, *others = subject.judged
    limits = {split: by_subset(subject, first, found) for split, found in budget.limits.items()}
    bound = [budget.limit("test", key) for key in subject.bound_keys_of(first)]
    # A budget that is one number for all is `max_drop` alone; beside those of other outputs, limits are told in full.
    plain = bool(others) and budget.share is None
    return BudgetReport(
        max_drop=min(bound),
        objective=subject.recipe.search.objective,
        share=budget.share,
        limits={} if plain else limits.get("test", {}),
        search_limits={} if plain else limits.get("validation", {}),
        subsets=tuple(by_subset(subject, first, dict.fromkeys(subject.bound_keys_of(first), True))),
    )


def _output(made: Compiled, name: str) -> OutputReference:
    subject, budget = made.subject, made.subject.budget
    bound = {key: budget.limit("test", key) for key in subject.bound_keys_of(name)}
    return OutputReference(
        metric=subject.metrics[name].name,
        lower_is_better=subject.metrics[name].lower_is_better,
        accuracy=by_subset(subject, name, made.reference),
        limits=by_subset(subject, name, bound),
        share=budget.shares.get(name),
    )


def _reference(made: Compiled) -> Reference:
    subject = made.subject
    return Reference(
        runtime=made.timings.reference,
        threads=subject.recipe.compile.threads,
        p50_ms=made.timings.reference_p50_ms,
        size_bytes=4 * sum(parameter.numel() for parameter in subject.module.parameters()),
        metric=subject.spec.metric,
        lower_is_better=subject.metrics[subject.judged[0]].lower_is_better,
        accuracy=by_subset(subject, subject.judged[0], made.reference),
        outputs={name: _output(made, name) for name in subject.judged[1:]},
        items=len(subject.splits["test"]),
        stages_ms=made.timings.reference_stages_ms,
    )


def _model(made: Compiled) -> ModelReport:
    subject, share, count = made.subject, made.subject.found.share, len(made.subject.stages)
    alone = f", {share:.0%} of the arithmetic sees one modality" if share is not None else ""
    return ModelReport(
        name=subject.spec.name,
        description=f"{subset_name(subject.subsets[0])}, {count} stage{'s' * (count != 1)}{alone}",
        stages=tuple(stage.name for stage in subject.specs),
        parameters=sum(parameter.numel() for parameter in subject.module.parameters()),
        single_modality_share=share,
        notes=subject.found.notes,
    )


def _machine(made: Compiled) -> MachineReport:
    machines = [result.machine for result in made.results.values()]
    return MachineReport(
        cpu=machines[0].cpu,
        cores=machines[0].cores,
        architecture=machines[0].architecture,
        features=machines[0].features,
        runtimes={name: version for machine in machines for name, version in machine.runtimes.items()},
        threads=machines[0].threads,
    )


def _bundle(made: Compiled, target: str, path: Path, written: bool) -> BundleReport:
    result, timings = made.results[target], made.timings.rungs[target]
    float_size, default = result.size_bytes(result.floats), made.default(target)
    limits = tuple(constraint for rung in made.rungs[target] for constraint in constraints(made, target, rung))
    return BundleReport(
        target=target,
        path=path.name,
        size_bytes=path.stat().st_size if written else 0,
        within_budget=default.within_budget is True and not any(c.excess > 0 for c in limits if c.rung == default.name),
        float_p50=timings[FLOAT_RUNG].p50,
        float_size_bytes=float_size,
        rungs=tuple(_rung(made, target, rung, float_size) for rung in made.rungs[target]),
        constraints=limits,
    )


def _rung(made: Compiled, target: str, rung: Rung, float_size: int) -> RungReport:
    timing, judged = made.timings.rungs[target][rung.name], made.judged.get(target, {}).get(rung.name)
    return RungReport(
        name=rung.name,
        objective=rung.objective,
        stages={stage: _choice(made, target, candidate) for stage, candidate in rung.candidates.items()},
        accuracy=rung.accuracy,
        drop_ci95=rung.drop_ci95,
        p50=timing.p50,
        speedup=_gain(timing.speedup) if timing.speedup else None,
        speedup_over_float=_gain(timing.speedup_over_float),
        size_bytes=rung.size_bytes,
        size_ratio=float_size / rung.size_bytes,
        peak_rss_bytes=timing.figure.peak_rss_bytes if timing.figure else None,
        outputs={
            name: OutputRung(accuracy=found.accuracy, drop_ci95=found.drop_ci95) for name, found in rung.outputs.items()
        },
        other_outputs=dict(judged.others) if judged else {},
        said=SaidReport(**to_builtins(judged.said)) if judged and judged.said else None,
    )


def _gain(measured: Ratio) -> Gain:
    return Gain.of(measured.ratio, measured.ci95, measured.marked)


def _choice(made: Compiled, target: str, candidate: str) -> StageChoice:
    built = made.results[target].built[candidate]
    name = built.pruning.id if built.pruning else ""
    return StageChoice(scheme=built.label, pruned=removed(built.pruning), pruning=name)
