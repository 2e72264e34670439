"""The course of the search: the candidates, the combinations it judged, and the front of the best."""

from __future__ import annotations

from collections.abc import Mapping

from edgefuse.compiler.evaluation.drops import by_subset
from edgefuse.compiler.report.compiled import Compiled, removed
from edgefuse.compiler.report.part import Gain
from edgefuse.compiler.report.schema import CandidateReport, FrontPoint, JudgedReport, SearchReport
from edgefuse.compiler.search import Judged, StageFigure
from edgefuse.compiler.search.frontier import front


def search_report(made: Compiled) -> SearchReport:
    """Return the counters, all that was judged, and the front."""
    results = made.results.values()
    return SearchReport(
        candidates=sum(len(result.built) for result in results),
        encoder_passes=sum(result.search.encoder_passes for result in results),
        fusion_passes=sum(result.search.passes for result in results),
        cap=made.subject.recipe.search.max_fusion_passes * len(made.results),
        seconds=round(made.seconds, 3),
        judged=tuple(one for target in made.results for one in _judged(made, target)),
        front=tuple(point for target in made.results for point in _front(made, target)),
    )


def first_drops(made: Compiled, judged: Judged) -> dict[str, float]:
    """Return the drops of the first output on validation, by subset."""
    subject = made.subject
    return by_subset(subject, subject.judged[0], {key: drop.drop for key, drop in judged.drops.items()})


def _judged(made: Compiled, target: str) -> list[JudgedReport]:
    result = made.results[target]
    return [
        JudgedReport(
            target=target,
            stages={stage: result.built[c].label for stage, c in one.candidates.items()},
            candidates=dict(one.candidates),
            p50=one.p50,
            size_bytes=one.size_bytes,
            drop=first_drops(made, one),
            other_drops={key: drop.drop for key, drop in one.drops.items() if key not in first_drops(made, one)},
            within_budget=one.within_budget,
        )
        for one in result.search.judged
    ]


def _front(made: Compiled, target: str) -> list[FrontPoint]:
    judged = front(made.results[target].search.judged)
    worst = [made.subject.budget.worst("validation", first_drops(made, one)) for one in judged]
    return [
        FrontPoint(
            target=target,
            candidates=one.candidates,
            p50=one.p50,
            size_bytes=one.size_bytes,
            memory_bytes=one.memory_bytes,
            drop=one.drops[subset].drop,
            subset=subset,
            within_budget=one.within_budget,
            rungs=tuple(rung.name for rung in made.rungs[target] if rung.candidates == one.candidates),
        )
        for one, subset in zip(judged, worst, strict=True)
    ]


def candidate_reports(made: Compiled, target: str) -> list[CandidateReport]:
    """Return a line for every candidate of every stage, then one for each that could not be made."""
    result = made.results[target]
    floats = {figure.stage: figure for figure in result.figures if figure.is_float}
    lines = [_candidate(made, target, figure, floats) for figure in result.figures]
    for id_, reason in result.data.candidates.refused.items():
        stage, pruning, scheme = _parts(made, id_)
        lines.append(
            CandidateReport(target=target, stage=stage, candidate=id_, scheme=scheme, pruning=pruning, excluded=reason)
        )
    return lines


def _candidate(made: Compiled, target: str, figure: StageFigure, floats: Mapping[str, StageFigure]) -> CandidateReport:
    result = made.results[target]
    built, twin = result.built[figure.candidate], floats[figure.stage]
    graph = made.graph(target, figure.candidate)
    return CandidateReport(
        target=target,
        stage=figure.stage,
        candidate=figure.candidate,
        scheme=built.label,
        p50=figure.p50,
        float_p50=twin.p50,
        speedup=Gain.of(figure.speedup, figure.speedup_ci95, figure.pressure.busy),
        size_bytes=built.size_bytes,
        float_size_bytes=result.built[twin.candidate].size_bytes,
        snr_db=figure.snr_db,
        chosen_by=tuple(r.name for r in made.rungs[target] if figure.candidate in r.candidates.values()),
        excluded=_excluded(made, figure),
        pruning=built.pruning.id if built.pruning else "",
        pruned=removed(built.pruning),
        recovery=built.pruning.recovery if built.pruning else "",
        mac=graph.mac,
        bytes_moved=graph.bytes_moved,
    )


def _excluded(made: Compiled, figure: StageFigure) -> str | None:
    if not figure.slower_than_float:
        return None
    return f"not {'faster' if made.timings.unit == 'ms' else 'cheaper'} than float: for size only"


def _parts(made: Compiled, id_: str) -> tuple[str, str, str]:
    """Take the name of a candidate apart: its stage, its pruning (empty if unpruned) and its scheme."""
    stage, _, rest = id_.partition(".")
    for form in made.forms.of(stage):
        if form.pruning is not None and rest.startswith(f"{form.pruning.id}."):
            return stage, form.pruning.id, rest[len(form.pruning.id) + 1 :]
    return stage, "", rest
