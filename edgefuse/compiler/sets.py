"""The candidate sets of a model: its stages as they are, and with narrowed interfaces.

Candidates combine within their set only, so each set is searched by itself, and a bundle holds rungs of one set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from edgefuse.compiler.cache.cache import Cache
from edgefuse.compiler.candidates import golden
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search import Found, Judged, Objective
from edgefuse.compiler.search.frontier import WORTH
from edgefuse.compiler.target import Baseline, TargetCompiler, TargetResult
from edgefuse.compiler.timing import Timer
from edgefuse.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class CandidateSet:
    """Stages whose candidates combine with each other, and what their files are held to."""

    subject: Subject
    golden: golden.GoldenInputs

    @classmethod
    def of(cls, subject: Subject) -> CandidateSet:
        """Generate the golden inputs of a subject, and what torch makes of them."""
        variants = [form for forms in subject.variants.values() for form in forms]
        return cls(subject, golden.generate(subject.stages, variants))


def compile_sets(
    sets: Sequence[CandidateSet], target: str, cache: Cache, progress: Progress, timer: Timer
) -> list[TargetResult]:
    """Compile all sets for one target; the first one has the unpruned float files that the others are measured against.

    Raises:
        ExportError: if a stage cannot be lowered in float.
        CheckError: if a float file does not agree with torch.
    """
    tools, (first, *others) = Toolchain.of(target, cache), sets
    compiler = TargetCompiler(first.subject, tools, progress, timer=timer)
    result = compiler.run(first.golden)
    baseline = Baseline(result, compiler.timing_feeds)
    compilers = [TargetCompiler(one.subject, tools, progress, baseline=baseline, timer=timer) for one in others]
    return [result, *(compiler.run(one.golden) for compiler, one in zip(compilers, others, strict=True))]


def best(winners: Sequence[Judged], objective: Objective) -> int:
    """Return which set's winner is the best, by number; a later one must be clearly better than those before it.

    What holds the budget comes first, or misses it least; then what is lower in the objective.
    """
    chosen = 0
    for number, winner in enumerate(winners):
        before = winners[chosen]
        if winner.within_budget and before.within_budget:
            better = _figure(winner, objective) < (1 - WORTH) * _figure(before, objective)
        else:
            better = winner.shortfall < before.shortfall
        chosen = number if better else chosen
    return chosen


def _figure(judged: Judged, objective: Objective) -> float:
    if objective == "accuracy":
        return max(judged.worst_drop, 0.0)
    return float({"latency": judged.p50_ms, "size": judged.size_bytes, "memory": judged.memory_bytes}[objective])


def merged(results: Sequence[TargetResult]) -> TargetResult:
    """Return what compiling several sets for one target found, as one; what they share is taken from the first.

    The float files are those of the first set, and so are the winners.
    """
    first = results[0]
    figures = _union([{figure.candidate: figure for figure in result.figures} for result in results])
    shared = sum(len(result.figures) for result in results) - len(figures)
    return replace(
        first,
        built=_union([result.built for result in results]),
        refused=_union([result.refused for result in results]),
        figures=list(figures.values()),
        found=Found(
            first.found.winners,
            [judged for result in results for judged in result.found.judged],
            passes=sum(result.found.passes for result in results),
            encoder_passes=sum(result.found.encoder_passes for result in results) - shared,  # frontends are leaves
        ),
        checked=_union([result.checked for result in results]),
    )


def _union(parts: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Join mappings; of what several have, the first one's counts."""
    found: dict[str, T] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, value)
    return found
