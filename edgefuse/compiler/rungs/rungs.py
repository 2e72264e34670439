"""The rungs of each target: chosen, judged on the test split, timed end to end, and corrected by these timings."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import OutputFigures, Rung
from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.evaluation.drops import by_subset
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.rungs.assemble import Assembly, plain_rung
from edgefuse.compiler.rungs.final import RungAccuracy, RungTiming, TestSplit, Timings, time_rungs
from edgefuse.compiler.rungs.mixing import alternatives, settle
from edgefuse.compiler.rungs.result import TargetResult
from edgefuse.compiler.search import Combination
from edgefuse.compiler.search.frontier import NAMES, Apart, ladder, objective_of, reduced
from edgefuse.compiler.timing import DraftRung, Timer, kept
from edgefuse.compiler.timing.timer import FLOAT_RUNG
from edgefuse.datasets.cache import Cache
from edgefuse.errors import EdgefuseError, MeasureError
from edgefuse.progress import Progress

logger = logging.getLogger(__name__)

_FAST = NAMES["latency"]


@dataclass(frozen=True)
class Finished:
    """One target, ready to be bundled: its rungs, and the metric of each on the test split."""

    result: TargetResult
    assembly: Assembly
    accuracies: Mapping[str, RungAccuracy]

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.result.target

    def drafts(self) -> list[Rung]:
        """Return the rungs to be timed: the chosen ones, and the float files."""
        chosen = {**self.assembly.chosen, FLOAT_RUNG: self.result.floats}
        return [plain_rung(name, combination) for name, combination in chosen.items()]


def choose(result: TargetResult) -> dict[str, Combination]:
    """Return the rungs that a search gives, the default one first; for a joined target those of its members, too."""
    found, subject = result.search, result.data.material.subject
    objective, largest = subject.recipe.search.objective, subject.budget.largest_drop
    asked = subject.recipe.ladder
    apart = Apart(asked.ratio, asked.down_to) if asked else None
    if asked and asked.max_drop is not None:
        largest = asked.max_drop
    rungs = ladder(found.judged, found.winners, default=objective, largest_drop=largest, apart=apart)
    chosen = {rung: one.candidates for rung, one in rungs}
    return chosen | alternatives(result, {part.target: choose(part) for part in result.parts})


def finish(result: TargetResult, test: TestSplit) -> Finished:
    """Choose the rungs of a target and judge them on the test split."""
    chosen = choose(result)
    return Finished(
        result, Assembly(result.data, chosen), {rung: test.judge(result, one) for rung, one in chosen.items()}
    )


def timed(
    finished: Sequence[Finished], test: TestSplit, cache: Cache, progress: Progress, timer: Timer
) -> tuple[list[Finished], Timings, dict[str, EdgefuseError]]:
    """Time all rungs end to end, and hold the fast ones to it; a target whose float rung cannot be timed is left out.

    Args:
        finished: the targets with their rungs.
        test: the test split.
        cache: that keeps timings.
        progress: is told what is timed.
        timer: that compares them.

    Returns:
        The targets that are left, all timings, and the error of each of the others.
    """
    timings = _timings(finished, cache, progress, timer)
    failed: dict[str, EdgefuseError] = {}
    for target, refused in timings.refused.items():
        for rung, why in refused.items():
            logger.warning("%s: the rung '%s' cannot be timed: %s", target, rung, why)
        if FLOAT_RUNG in refused:
            why = refused[FLOAT_RUNG].rstrip(".")
            failed[target] = MeasureError(f"the float files of '{target}' cannot be timed together: {why}")
    kept, timings = _never_slower([f for f in finished if f.target not in failed], timings, test)
    return kept, timings, failed


def _slow(timing: RungTiming) -> bool:
    """Whether a rung was not shown to be faster than the float files."""
    return timing.speedup_over_float.ci95[0] <= 1


def _timings(finished: Sequence[Finished], cache: Cache, progress: Progress, timer: Timer) -> Timings:
    """Time all rungs of all targets, and the float stages, against the reference: end to end, from bundles."""
    subject = finished[0].result.data.material.subject
    machines = {f.target: f.result.machine for f in finished}
    files = [
        [rung.name, [f.result.built[c].sha256 for c in rung.candidates.values()]]
        for f in finished
        for rung in f.drafts()
    ]
    key = [files, timer.unit, machines, subject.provenance, subject.splits["test"].digest, fingerprint.of_compiler()]

    def make() -> Timings:
        with tempfile.TemporaryDirectory(prefix="edgefuse-") as temporary:
            written = [draft for f in finished for draft in _drafted(f, Path(temporary))]
            return time_rungs(subject, written, timer, lambda what: progress(0, 0, what))

    return kept.timings(cache, "timings", key, Timings, make, timer)


def _drafted(finished: Finished, folder: Path) -> Iterator[DraftRung]:
    """Write a bundle of all rungs to be timed."""
    path, result, rungs = folder / f"{finished.target}.edgefuse", finished.result, finished.drafts()
    write_bundle(path, finished.assembly.manifest(rungs), finished.assembly.contents(rungs))
    for rung in rungs:
        built = {stage: result.built[candidate] for stage, candidate in rung.candidates.items()}
        yield DraftRung(finished.target, rung.name, path, built, result.machine)


def _never_slower(finished: Sequence[Finished], timings: Timings, test: TestSplit) -> tuple[list[Finished], Timings]:
    """Hold the rungs to what was measured of them end to end.

    The rung `fast` gets its float stages where it was not shown to be faster than them, as does a default one that
    cannot be timed; another that cannot, and a reduced rung that is not faster than the rung before it, are left out.
    """
    kept: list[Finished] = []
    rungs = {target: dict(of_target) for target, of_target in timings.rungs.items()}
    for f in finished:
        here, chosen, accuracies = rungs[f.target], dict(f.assembly.chosen), dict(f.accuracies)
        floats, default = f.result.floats, next(iter(chosen))
        for name in timings.refused.get(f.target, ()):
            if name == default:
                here[name], chosen[name] = here[FLOAT_RUNG], floats
                accuracies[name] = test.judge(f.result, floats)
            else:
                del chosen[name]
        settle(f.result, chosen, accuracies, here)
        if chosen.get(_FAST, floats) != floats and _slow(here[_FAST]):
            logger.warning("%s: no combination is faster than float end to end", f.target)
            here[_FAST], chosen[_FAST] = here[FLOAT_RUNG], floats
            accuracies[_FAST] = test.judge(f.result, floats)
        give_to_fast(chosen, accuracies, here)
        asked = f.result.data.material.subject.recipe.ladder
        leave_out_near_rungs(chosen, here, asked.ratio if asked else 1.0)
        kept.append(replace(f, assembly=replace(f.assembly, chosen=chosen), accuracies=accuracies))
    return kept, msgspec.structs.replace(timings, rungs=rungs)


def leave_out_near_rungs(chosen: dict[str, Combination], here: Mapping[str, RungTiming], ratio: float) -> None:
    """Leave out reduced rungs that, end to end, are not so many times faster than the rung above.

    Of two that are near to each other the faster one stays, which is what a ladder is for.

    Args:
        chosen: combinations by rung, reduced ones in the order of their sums; changed in place.
        here: timings by rung.
        ratio: how many times faster, at the least; by anything at all if it is 1.
    """
    start = limit = min((here[name].p50 for name in chosen if not reduced(name)), default=0.0)
    for name in [name for name in chosen if reduced(name)]:
        if here[name].p50 >= limit:
            del chosen[name]
        else:
            limit = here[name].p50
    below = 0.0
    for name in reversed([name for name in chosen if reduced(name)]):
        if ratio * below <= here[name].p50 <= start / ratio:
            below = here[name].p50
        else:
            del chosen[name]


def give_to_fast(
    chosen: dict[str, Combination], accuracies: dict[str, RungAccuracy], here: dict[str, RungTiming]
) -> None:
    """Let the rung `fast` be the winner that was fastest end to end.

    Sums of stages that were timed alone, in warm caches, put neighbours in the wrong order: end to end small weights
    count for more. One combination is one rung, the default one. What a busy machine cannot tell apart stays in order.

    Args:
        chosen: combinations by rung; changed in place.
        accuracies: by rung; changed in place.
        here: timings by rung; changed in place.
    """
    rival = min((name for name in chosen if not reduced(name)), key=lambda name: here[name].p50, default="")
    if _FAST not in chosen or rival == _FAST:
        return
    if here[_FAST].ties_with(here[rival]):
        return
    if rival == next(iter(chosen)):
        del chosen[_FAST]
        return
    here[_FAST], chosen[_FAST], accuracies[_FAST] = here[rival], chosen[rival], accuracies[rival]
    del chosen[rival]


def measured_rungs(finished: Finished, timings: Timings) -> tuple[Rung, ...]:
    """Return the rungs of a bundle with everything that was measured of them."""
    subject = finished.result.data.material.subject
    rungs = []
    for name, combination in finished.assembly.chosen.items():
        judged, timing = finished.accuracies[name], timings.rungs[finished.target][name]
        first, *others = (_figures(subject, output, judged) for output in subject.judged)
        rungs.append(
            Rung(
                name=name,
                objective=objective_of(name),
                candidates=dict(combination),
                accuracy=first.accuracy,
                drop_ci95=first.drop_ci95,
                outputs=dict(zip(subject.judged[1:], others, strict=True)),
                within_budget=all(
                    judged.drops[key].drop <= subject.budget.limit("test", key) for key in subject.budget_keys
                ),
                size_bytes=finished.result.size_bytes(combination),
                figures=(timing.figure,) if timing.figure else (),
                cost=timing.cost,
            )
        )
    return tuple(rungs)


def _figures(subject: Subject, output: str, judged: RungAccuracy) -> OutputFigures:
    intervals = {key: (drop.low, drop.high) for key, drop in judged.drops.items()}
    return OutputFigures(
        metric=subject.metrics[output].name,
        accuracy=by_subset(subject, output, judged.figures),
        drop_ci95=by_subset(subject, output, intervals),
    )
