"""The cost and the worth of each modality, before and after compression."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edgefuse.bundle.manifest import Rung
from edgefuse.bundle.spec import subset_name
from edgefuse.compiler.report.compiled import Compiled
from edgefuse.compiler.report.schema import Change, ModalityReport, StageCosts
from edgefuse.compiler.report.search import first_drops
from edgefuse.compiler.search import Combination, Judged, once_a_file


def modality_reports(made: Compiled, target: str) -> list[ModalityReport]:
    """Return a line for each modality, one for the stages that they share, and one for the decoder if there is one."""
    specs = made.subject.specs
    stages = [(m.name, [spec for spec in specs if spec.modality == m.name]) for m in made.subject.spec.modalities]
    for decodes in (False, True):  # it is usually what loses most
        stages.append(("", [spec for spec in specs if not spec.modality and (spec.role == "decoder") == decodes]))
    return [_line(made, target, name, tuple(spec.name for spec in found)) for name, found in stages if found]


def _line(made: Compiled, target: str, modality: str, stages: tuple[str, ...]) -> ModalityReport:
    rung, floats = made.default(target), made.results[target].floats
    names = tuple(other.name for other in made.subject.spec.modalities)
    rest = tuple(name for name in names if name != modality)
    graphs = [made.graph(target, rung.candidates[stage]) for stage in stages]
    alone = judged_alone(made.results[target].search.judged, stages, floats, rung.candidates)
    return ModalityReport(
        target=target,
        modality=modality,
        stages=stages,
        before=stage_costs(made, target, stages, floats),
        after=stage_costs(made, target, stages, rung.candidates),
        sensitivity=worst_drop(first_drops(made, alone)) if alone else None,
        compressed={stage: alone.candidates[stage] for stage in stages} if alone else {},
        together=_change(made, rung, names) if modality else None,
        without=_change(made, rung, rest) if modality else None,
        alone=_change(made, rung, (modality,)) if modality else None,
        uncounted=tuple(dict.fromkeys(kind for graph in graphs for kind in graph.uncounted)),
    )


def stage_costs(made: Compiled, target: str, stages: Sequence[str], combination: Combination) -> StageCosts:
    """Return the costs of some stages as a combination runs them.

    Args:
        made: the results of the compile.
        target: its name.
        stages: their names.
        combination: candidates by stage.
    """
    figures = [made.figure(target, combination[stage]) for stage in stages]
    graphs = [made.graph(target, combination[stage]) for stage in stages]
    return StageCosts(
        p50=sum(figure.p50 for figure in figures),
        size_bytes=sum(figure.size_bytes for figure in once_a_file(figures)),
        mac=sum(graph.mac for graph in graphs),
        bytes_moved=sum(graph.bytes_moved for graph in graphs),
        activation_bytes=max((graph.peak_activation_bytes for graph in graphs), default=0),
    )


def worst_drop(drops: Mapping[str, float]) -> float:
    """Return the drop of the worst subset, without the caution of the search."""
    return max(drops.values())


def judged_alone(
    judged: Sequence[Judged], stages: Collection[str], floats: Combination, wanted: Combination
) -> Judged | None:
    """Return the judged combination that compresses some stages alone: as wanted, else the fastest; None if none.

    Args:
        judged: combinations.
        stages: that are compressed.
        floats: the float combination.
        wanted: the combination of the rung.
    """
    alone = [
        one
        for one in judged
        if one.candidates != floats
        and all(one.candidates[stage] == candidate for stage, candidate in floats.items() if stage not in stages)
    ]
    exact = [one for one in alone if all(one.candidates[stage] == wanted[stage] for stage in stages)]
    return next(iter(exact), min(alone, key=lambda one: (one.p50, one.name), default=None))


def _change(made: Compiled, rung: Rung, subset: tuple[str, ...]) -> Change | None:
    name = subset_name(subset)
    if name not in made.reference or name not in rung.accuracy:
        return None
    return Change(before=made.reference[name], after=rung.accuracy[name])
