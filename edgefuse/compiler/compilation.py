"""`edgefuse.compile`: from a recipe to checked bundles and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler import prefetch
from edgefuse.compiler import workers as engines
from edgefuse.compiler.cache.cache import default_folder, open_cache
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.model.subject import prepare
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.recovery.forms import pruned
from edgefuse.compiler.recovery.narrowing import narrowed_set
from edgefuse.compiler.report import report
from edgefuse.compiler.report.compiled import recovery
from edgefuse.compiler.rungs.final import TestSplit
from edgefuse.compiler.rungs.rungs import Finished, finish, measured_rungs, timed
from edgefuse.compiler.sets import CandidateSet, compile_sets
from edgefuse.compiler.timing import timer_of
from edgefuse.compiler.workers import Crew, in_one_thread
from edgefuse.progress import Progress, silent


@dataclass(frozen=True)
class CompileResult:
    """What a compile made.

    Attributes:
        bundles: one `.edgefuse` file per target.
        within_budget: whether the default rung of every bundle holds the budget on the test split.
        summary: a table for people.
        busy: which timings cannot be trusted, and what was seen meanwhile, in words; empty on a quiet machine.
    """

    bundles: tuple[Path, ...]
    within_budget: bool
    report_json: Path
    report_html: Path
    summary: str
    busy: tuple[str, ...] = ()


@in_one_thread()
def compile(  # noqa: A001 - the verb of the tool
    recipe: Path | str,
    out: Path | str,
    *,
    targets: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
    jobs: int = 1,
    engine: str = "local",
) -> CompileResult:
    """Compile a recipe: prune, quantize, export, search, verify, bundle and report.

    Args:
        recipe: a TOML file.
        out: the folder for bundles and report.
        targets: instead of the recipe's.
        cache: the folder of the cache; the user's by default.
        progress: is told what is going on.
        jobs: how many recoveries or candidates are made at the same time; the result is the same for any number.
        engine: where jobs run, `local` or `ray`. Latency is measured here, when all jobs are done.

    Raises:
        RecipeError, ModelError, DataError: what the user gave is wrong; nothing was written.
        ExportError: a target cannot lower a stage.
        CheckError: a float file does not agree with torch.
        CacheError: the cache cannot be written, or has no room.
        EngineError, MissingExtraError: jobs cannot run as asked.
    """
    started = time.perf_counter()
    path, folder = Path(recipe), Path(out)
    wanted = recipes.load(path)
    if targets:
        wanted = msgspec.structs.replace(
            wanted, compile=msgspec.structs.replace(wanted.compile, targets=tuple(targets))
        )
        recipes.check(path, wanted)
    timer = timer_of(wanted)
    store = open_cache(cache or default_folder())
    crew = Crew(shared=store.folder, jobs=jobs, paths=(str(path.resolve().parent),), progress=progress)
    hands = engines.create(engine, crew)
    subject = prepare(path, wanted, store, progress)
    for target in wanted.compile.targets:  # what a device lacks is told now, not when all is made
        timer.describe(Toolchain.of(target, store).backend, wanted.compile.threads)
    if hands.parallel:
        prefetch.recover(subject, store, hands, progress, timer)
    subject = pruned(subject, store, progress, timer)
    narrow = narrowed_set(subject, store, progress)
    subjects = [subject] if narrow is None else [subject, narrow]
    if hands.parallel:
        for one in subjects:
            prefetch.build(one, store, hands)
    sets = [CandidateSet.of(one) for one in subjects]
    test = TestSplit(subject, store, lambda what: progress(0, 0, f"test: {what}"))
    results = [compile_sets(sets, target, store, progress, timer) for target in wanted.compile.targets]
    if hands.parallel:
        prefetch.judge(sets, results, store, hands)
    chosen = [finish(sets, found, test) for found in results]
    finished, timings = timed(chosen, test, store, progress, timer)
    folder.mkdir(parents=True, exist_ok=True)
    made = report.Compiled(
        subject=subject,
        results={f.target: f.assembly.result for f in finished},
        rungs={f.target: measured_rungs(f, timings) for f in finished},
        rows=tuple(checked.row for f in finished for checked in f.assembly.result.checked.values()),
        timings=timings,
        reference=test.reference(),
        seconds=time.perf_counter() - started,
        sets=subjects,
        recoveries=[recovery(o.stages, o.pruning, o.epochs) for one in subjects for o in one.recoveries],
        limits=wanted.search.limits,
    )
    return _write(folder, finished, made)


def _write(folder: Path, finished: Sequence[Finished], made: report.Compiled) -> CompileResult:
    """Write bundles and reports, each atomically."""
    paths = {}
    for f in finished:
        paths[f.target] = folder / f"{made.subject.spec.name}-{f.target}.edgefuse"
        contents = f.assembly.contents(made.rungs[f.target])
        contents["report.json"] = report.encode(report.build(made, {f.target: paths[f.target]}))
        write_bundle(paths[f.target], f.assembly.manifest(made.rungs[f.target]), contents)
    whole = report.build(made, paths)
    report_json, report_html = report.write(folder, whole)
    return CompileResult(
        bundles=tuple(paths.values()),
        within_budget=all(bundle.within_budget for bundle in whole.bundles),
        report_json=report_json,
        report_html=report_html,
        summary=report.summary(whole),
        busy=report.busy(whole.timings),
    )
