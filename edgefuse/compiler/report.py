"""`report.json` and `report.html`: everything that was measured, and how."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import Rung
from edgefuse.bundle.spec import subset_name
from edgefuse.compiler import report_html
from edgefuse.compiler.final import FLOAT_RUNG, Timings
from edgefuse.compiler.report_schema import (
    Budget,
    BundleReport,
    CandidateReport,
    Gain,
    GoldenRow,
    Judged,
    MachineReport,
    ModelReport,
    Reference,
    Report,
    RungReport,
    SearchReport,
    StageChoice,
)
from edgefuse.compiler.subject import Subject
from edgefuse.compiler.target import TargetResult


@dataclass(frozen=True)
class Compiled:
    """What a compile found, ready to be reported; mappings are by target."""

    subject: Subject
    results: Mapping[str, TargetResult]
    rungs: Mapping[str, Sequence[Rung]]
    rows: Sequence[GoldenRow]
    timings: Timings
    reference: Mapping[str, float]
    seconds: float


def build(made: Compiled, paths: Mapping[str, Path]) -> Report:
    """Return the report on the bundles that lie at `paths` (target to path)."""
    subject = made.subject
    search = subject.recipe.search
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    everything = subset_name(subject.subsets[0])
    first = next(iter(made.results.values())).machine
    runtimes = {name: version for result in made.results.values() for name, version in result.machine.runtimes.items()}
    return Report(
        reference=Reference(
            runtime=made.timings.reference,
            threads=subject.recipe.compile.threads,
            p50_ms=made.timings.reference_p50_ms,
            size_bytes=4 * parameters,
            metric=subject.spec.metric,
            accuracy=dict(made.reference),
            items=len(subject.splits["test"]),
            stages_ms=made.timings.reference_stages_ms,
        ),
        bundles=tuple(_bundle(made, target, path) for target, path in paths.items()),
        search=_search(made),
        golden=tuple(made.rows),
        model=ModelReport(
            name=subject.spec.name,
            description=f"{everything}, {len(subject.stages)} stages",
            stages=tuple(stage.name for stage in subject.specs),
            parameters=parameters,
        ),
        machine=MachineReport(
            cpu=first.cpu,
            cores=first.cores,
            architecture=first.architecture,
            features=first.features,
            runtimes=runtimes,
            threads=first.threads,
        ),
        budget=Budget(max_drop=search.max_drop, objective=search.objective),
        stages=tuple(row for target in made.results for row in _candidates(made, target)),
        method=_method(made),
        notes=_notes(made),
        command="edgefuse compile RECIPE.toml -o DIR",
    )


def encode(report: Report) -> bytes:
    """Return a report as JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def write(folder: Path, report: Report) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into a folder, each in full or not at all."""
    data = encode(report)
    page = report_html.render(msgspec.json.decode(data))
    paths = (folder / "report.json", folder / "report.html")
    for path, content in zip(paths, (data, page.encode()), strict=True):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644)
        os.replace(file.name, path)  # noqa: PTH105 - pathlib's replace says the same with more words
    return paths


def _bundle(made: Compiled, target: str, path: Path) -> BundleReport:
    result, timings = made.results[target], made.timings.rungs[target]
    float_size = result.size_bytes(result.floats)
    rungs = tuple(_rung(made, target, rung, float_size) for rung in made.rungs[target])
    return BundleReport(
        target=target,
        path=path.name,
        size_bytes=path.stat().st_size if path.exists() else 0,
        within_budget=made.rungs[target][0].within_budget,
        float_p50_ms=timings[FLOAT_RUNG].figure.p50_ms,
        float_size_bytes=float_size,
        rungs=rungs,
    )


def _rung(made: Compiled, target: str, rung: Rung, float_size: int) -> RungReport:
    timing, built = made.timings.rungs[target][rung.name], made.results[target].built
    return RungReport(
        name=rung.name,
        objective=rung.objective,
        stages={s: StageChoice(scheme=built[c].scheme.id, pruned=None) for s, c in rung.candidates.items()},
        accuracy=rung.accuracy,
        drop_ci95=rung.drop_ci95,
        p50_ms=timing.figure.p50_ms,
        speedup=Gain(ratio=timing.speedup.ratio, ci95=timing.speedup.ci95),
        speedup_over_float=Gain(ratio=timing.speedup_over_float.ratio, ci95=timing.speedup_over_float.ci95),
        size_bytes=rung.size_bytes,
        size_ratio=float_size / rung.size_bytes,
        peak_rss_bytes=timing.figure.peak_rss_bytes,
    )


def _search(made: Compiled) -> SearchReport:
    judged = [
        Judged(
            target=target,
            stages={stage: result.built[c].scheme.id for stage, c in one.candidates.items()},
            p50_ms=one.p50_ms,
            size_bytes=one.size_bytes,
            drop={subset: drop.drop for subset, drop in one.drops.items()},
            within_budget=one.within_budget,
        )
        for target, result in made.results.items()
        for one in result.found.judged
    ]
    return SearchReport(
        candidates=sum(len(result.built) for result in made.results.values()),
        fusion_passes=sum(result.found.passes for result in made.results.values()),
        seconds=round(made.seconds, 3),
        judged=tuple(judged),
    )


def _candidates(made: Compiled, target: str) -> list[CandidateReport]:
    result = made.results[target]
    floats = {figure.stage: figure for figure in result.figures if figure.is_float}
    rows = [
        CandidateReport(
            target=target,
            stage=figure.stage,
            candidate=figure.candidate,
            scheme=figure.scheme,
            p50_ms=figure.p50_ms,
            float_p50_ms=floats[figure.stage].p50_ms,
            speedup=Gain(ratio=figure.speedup, ci95=figure.speedup_ci95),
            size_bytes=result.built[figure.candidate].size_bytes,
            float_size_bytes=result.built[floats[figure.stage].candidate].size_bytes,
            snr_db=figure.snr_db,
            chosen_by=tuple(r.name for r in made.rungs[target] if figure.candidate in r.candidates.values()),
            excluded="not faster than float: for size only" if figure.slower_than_float else None,
        )
        for figure in result.figures
    ]
    for id_, reason in result.refused.items():
        stage, _, scheme = id_.partition(".")
        rows.append(CandidateReport(target=target, stage=stage, candidate=id_, scheme=scheme, excluded=reason))
    return rows


def _method(made: Compiled) -> tuple[str, ...]:
    threads = made.subject.recipe.compile.threads
    runs = next(iter(next(iter(made.timings.rungs.values())).values())).figure.runs
    items = {name: len(split) for name, split in made.subject.splits.items()}
    return (
        f"Latency: {runs} rounds over real test items, {threads} thread(s), batch 1, feature cache off; every round "
        "times one call of the torch reference, of the float stages and of every rung of every target, in random "
        "order, each right after an untimed call of its own (a single stream: caches as the last query left them). "
        "p50 is the median; a speed-up is the median of the rounds' ratios with its bootstrap 95 % interval.",
        "Preprocessing outside the graph (decoding, resizing, tokenising) is not in these figures; frontends are.",
        f"Accuracy: {items['test']} test items that the search never saw, every admissible subset of modalities, from "
        "the exported files in the target's own runtime at batch 1. A drop is reference minus rung, paired by item.",
        f"Search: {items['validation']} validation items; a combination holds the budget if its drop plus one standard "
        f"error does. Calibration: {items['calibration']} items.",
        "Sizes of rungs are those of their stage files, frontends apart.",
    )


def _notes(made: Compiled) -> tuple[str, ...]:
    notes = [f"Not run on target hardware: measured on this machine, {next(iter(made.results.values())).machine.cpu}."]
    for target, rungs in made.rungs.items():
        for rung in rungs:
            timing = made.timings.rungs[target][rung.name].speedup_over_float
            if timing.ci95[0] <= 1 and rung.candidates != made.results[target].floats:
                notes.append(f"{target}, {rung.name}: not faster than float ({timing.ratio:.2f} times); smaller only.")
            if not rung.within_budget:
                worst = min(rung.drop_ci95, key=lambda subset: rung.accuracy[subset] - made.reference[subset])
                lost = made.reference[worst] - rung.accuracy[worst]
                notes.append(f"{target}, {rung.name}: over budget: '{worst}' lost {100 * lost:.2f} points.")
    return tuple(notes)


_COLUMNS = "{:8} {:9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10}"


def summary(report: Report) -> str:
    """Return the main table as text."""
    reference = report.reference
    lines = [
        _COLUMNS.format("target", "rung", "p50 ms", "x torch", "x float", "size kB", "smaller", "worst drop"),
        _line("torch", "fp32", reference.p50_ms, reference.size_bytes),
    ]
    for bundle in report.bundles:
        lines.append(_line(bundle.target, "float", bundle.float_p50_ms, bundle.float_size_bytes))
        for rung in bundle.rungs:
            lost = max(reference.accuracy[subset] - rung.accuracy[subset] for subset in rung.accuracy)
            gains = [f"{gain.ratio:.2f}" for gain in (rung.speedup, rung.speedup_over_float)]
            rest = (*gains, f"{rung.size_ratio:.2f}", f"{100 * lost:.2f} pt")
            lines.append(_line(bundle.target, rung.name, rung.p50_ms, rung.size_bytes, *rest))
    return "\n".join([*lines, "", *(f"note: {note}" for note in report.notes)])


def _line(
    target: str,
    rung: str,
    p50_ms: float,
    size_bytes: int,
    over: str = "",
    own: str = "",
    smaller: str = "",
    lost: str = "",
) -> str:
    return _COLUMNS.format(target, rung, f"{p50_ms:.2f}", over, own, f"{size_bytes / 1e3:.0f}", smaller, lost).rstrip()
