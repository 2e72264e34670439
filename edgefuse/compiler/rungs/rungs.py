"""The rungs of each target: chosen, judged on the test split, timed end to end, and held to what was measured."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import Rung
from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.cache import Cache
from edgefuse.compiler.rungs.assemble import Assembly, plain_rung
from edgefuse.compiler.rungs.final import RungAccuracy, RungTiming, TestSplit, Timings, time_rungs
from edgefuse.compiler.search import Combination
from edgefuse.compiler.search.frontier import NAMES, ladder, objective_of, reduced
from edgefuse.compiler.sets import CandidateSet, best, merged
from edgefuse.compiler.target import TargetResult
from edgefuse.compiler.timing import DraftRung, Timer, kept
from edgefuse.compiler.timing.timer import FLOAT_RUNG
from edgefuse.progress import Progress

logger = logging.getLogger(__name__)

_FASTEST = NAMES["latency"]


@dataclass(frozen=True)
class Finished:
    """One target, ready to be bundled.

    Attributes:
        sets, results: what there was to choose from, the unpruned model's own set first.
        number: of the set that was chosen.
        assembly: of the bundle; its result is that of all sets together.
        accuracies: by rung.
    """

    sets: Sequence[CandidateSet]
    results: Sequence[TargetResult]
    number: int
    assembly: Assembly
    accuracies: Mapping[str, RungAccuracy]

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.assembly.result.toolchain.target.name

    @property
    def narrowed(self) -> bool:
        """Whether its stages have other interfaces than the float files that they are measured against."""
        return self.number > 0

    def drafts(self) -> list[tuple[Assembly, list[Rung]]]:
        """Return bundles to be measured: the chosen rungs, and the float files, whose interfaces may be others."""
        chosen = [plain_rung(name, combination) for name, combination in self.assembly.chosen.items()]
        first, result = self.sets[0], self.assembly.result
        floats: dict[str, Combination] = {FLOAT_RUNG: result.floats}
        plain = Assembly(first.subject, result, floats, first.golden)
        return [(self.assembly, chosen), (plain, [plain_rung(FLOAT_RUNG, result.floats)])]


def finish(
    sets: Sequence[CandidateSet], results: Sequence[TargetResult], test: TestSplit, number: int | None = None
) -> Finished:
    """Choose the rungs of a target and judge them on the test split.

    Args:
        sets: that its candidates are of.
        results: of compiling each set for it.
        test: what they are judged on.
        number: of the set to take; by default that with the best winner.
    """
    number, chosen = choose(sets, results, number)
    subject, whole = sets[number].subject, merged(results)
    accuracies = {rung: test.judge(subject, whole, combination) for rung, combination in chosen.items()}
    return Finished(sets, results, number, Assembly(subject, whole, chosen, sets[number].golden), accuracies)


def choose(
    sets: Sequence[CandidateSet], results: Sequence[TargetResult], number: int | None = None
) -> tuple[int, dict[str, Combination]]:
    """Return which set a target takes (by default that with the best winner), and the rungs that it gives."""
    objective = sets[0].subject.recipe.search.objective
    if number is None:
        number = best([result.found.winners[objective] for result in results], objective)
    found = results[number].found
    return number, {rung: one.candidates for rung, one in ladder(found.judged, found.winners, default=objective)}


def timed(
    finished: Sequence[Finished], test: TestSplit, cache: Cache, progress: Progress, timer: Timer
) -> tuple[list[Finished], Timings]:
    """Time all rungs end to end; narrowed stages that do not pay off make room for the target's other set."""
    timings = _timings(finished, cache, progress, timer)
    kept = [
        finish(f.sets, f.results, test, number=0) if f.narrowed and _slow_default(f, timings) else f for f in finished
    ]
    if any(one is not other for one, other in zip(kept, finished, strict=True)):
        timings = _timings(kept, cache, progress, timer)
    return _never_slower(kept, timings, test)


def _slow_default(finished: Finished, timings: Timings) -> bool:
    default = next(iter(finished.assembly.chosen))
    slow = default == _FASTEST and _slow(timings.rungs[finished.target][default])
    if slow:
        logger.warning("%s: narrowed interfaces are not faster than float end to end: left out", finished.target)
    return slow


def _slow(timing: RungTiming) -> bool:
    """Whether a rung was not shown to be faster than the float files."""
    return timing.speedup_over_float.ci95[0] <= 1


def _timings(finished: Sequence[Finished], cache: Cache, progress: Progress, timer: Timer) -> Timings:
    """Time all rungs of all targets, and the float stages, against the reference: end to end, from bundles."""
    subject = finished[0].sets[0].subject
    drafts = {f.target: f.drafts() for f in finished}
    machines = {f.target: f.assembly.result.machine for f in finished}
    files = [
        [rung.name, [assembly.result.built[c].sha256 for c in rung.candidates.values()]]
        for of_target in drafts.values()
        for assembly, rungs in of_target
        for rung in rungs
    ]
    key = [files, timer.unit, machines, subject.provenance, subject.splits["test"].digest, fingerprint.of_compiler()]

    def make() -> Timings:
        with tempfile.TemporaryDirectory(prefix="edgefuse-") as temporary:
            written = [draft for f in finished for draft in _drafted(f, Path(temporary))]
            return time_rungs(subject, written, timer, lambda what: progress(0, 0, what))

    return kept.timings(cache, "timings", key, Timings, make, timer)


def _drafted(finished: Finished, folder: Path) -> Iterator[DraftRung]:
    """Write the drafts of a target into a folder and yield their rungs."""
    for number, (assembly, rungs) in enumerate(finished.drafts()):
        path, result = folder / f"{finished.target}-{number}.edgefuse", assembly.result
        write_bundle(path, assembly.manifest(rungs), assembly.contents(rungs))
        for rung in rungs:
            built = {stage: result.built[candidate] for stage, candidate in rung.candidates.items()}
            yield DraftRung(finished.target, rung.name, path, built, result.machine)


def _never_slower(finished: Sequence[Finished], timings: Timings, test: TestSplit) -> tuple[list[Finished], Timings]:
    """Hold the rungs to what was measured of them end to end.

    The fastest rung gets its float stages where it was not shown to be faster than them, or is left out where those
    have other interfaces; and a reduced rung that is not faster than the rung before it is left out.
    """
    kept: list[Finished] = []
    rungs = {target: dict(of_target) for target, of_target in timings.rungs.items()}
    for f in finished:
        here, chosen, accuracies = rungs[f.target], dict(f.assembly.chosen), dict(f.accuracies)
        floats = f.assembly.result.floats
        if chosen.get(_FASTEST, floats) != floats and _slow(here[_FASTEST]):
            logger.warning("%s: no combination is faster than float end to end", f.target)
            if f.narrowed:
                del chosen[_FASTEST]
            else:
                here[_FASTEST], chosen[_FASTEST] = here[FLOAT_RUNG], floats
                accuracies[_FASTEST] = test.judge(f.assembly.subject, f.assembly.result, floats)
        give_to_fastest(chosen, accuracies, here)
        limit = min((here[name].figure.p50_ms for name in chosen if not reduced(name)), default=0.0)
        for name in [name for name in chosen if reduced(name)]:
            if here[name].figure.p50_ms >= limit:
                del chosen[name]
            else:
                limit = here[name].figure.p50_ms
        kept.append(replace(f, assembly=replace(f.assembly, chosen=chosen), accuracies=accuracies))
    return kept, msgspec.structs.replace(timings, rungs=rungs)


def give_to_fastest(
    chosen: dict[str, Combination], accuracies: dict[str, RungAccuracy], here: dict[str, RungTiming]
) -> None:
    """Let the fastest rung be what was fastest end to end.

    Sums of stages that were timed alone, in warm caches, put neighbours in the wrong order: end to end small weights
    count for more. One combination is one rung, the default one. What a busy machine cannot tell apart stays in order.
    """
    rival = min((name for name in chosen if not reduced(name)), key=lambda name: here[name].figure.p50_ms, default="")
    if _FASTEST not in chosen or rival == _FASTEST:
        return
    if here[_FASTEST].ties_with(here[rival]):
        return
    if rival == next(iter(chosen)):
        del chosen[_FASTEST]
        return
    here[_FASTEST], chosen[_FASTEST], accuracies[_FASTEST] = here[rival], chosen[rival], accuracies[rival]
    del chosen[rival]


def measured_rungs(finished: Finished, timings: Timings) -> tuple[Rung, ...]:
    """Return the rungs of a bundle with everything that was measured of them."""
    subject = finished.assembly.subject
    rungs = []
    for name, combination in finished.assembly.chosen.items():
        judged, figure = finished.accuracies[name], timings.rungs[finished.target][name].figure
        rungs.append(
            Rung(
                name=name,
                objective=objective_of(name),
                candidates=dict(combination),
                accuracy=dict(judged.accuracy),
                drop_ci95={subset: (drop.low, drop.high) for subset, drop in judged.drops.items()},
                within_budget=all(
                    judged.drops[subset].drop <= subject.recipe.search.max_drop for subset in subject.budget_subsets
                ),
                size_bytes=finished.assembly.result.size_bytes(combination),
                figures=(figure,) if timings.unit == "ms" else (),
                cost=figure.p50_ms if timings.unit == "cost" else None,
            )
        )
    return tuple(rungs)
