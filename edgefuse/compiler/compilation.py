"""`edgefuse.compile`: from a recipe to checked bundles and a report."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import Rung
from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler import engine as engines
from edgefuse.compiler import fingerprint, golden, prefetch
from edgefuse.compiler import recipe as recipes
from edgefuse.compiler.assemble import Assembly, plain_rung
from edgefuse.compiler.cache import Cache, default_folder
from edgefuse.compiler.candidates import Toolchain
from edgefuse.compiler.engine import Crew, in_one_thread
from edgefuse.compiler.evaluate import Evaluator
from edgefuse.compiler.final import FLOAT_RUNG, RungAccuracy, TestSplit, Timings, time_rungs
from edgefuse.compiler.pruning import pruned
from edgefuse.compiler.report import report
from edgefuse.compiler.report.compiled import recovery
from edgefuse.compiler.search.frontier import NAMES, ladder, objective_of, reduced
from edgefuse.compiler.subject import Subject, prepare
from edgefuse.compiler.target import TargetCompiler
from edgefuse.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileResult:
    """What a compile made.

    Attributes:
        bundles: one `.edgefuse` file per target.
        within_budget: whether the default rung of every bundle holds the budget on the test split.
        summary: a table for people.
    """

    bundles: tuple[Path, ...]
    within_budget: bool
    report_json: Path
    report_html: Path
    summary: str


@dataclass(frozen=True)
class _Finished:
    """One target, ready to be bundled."""

    assembly: Assembly
    accuracies: Mapping[str, RungAccuracy]


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
    store = Cache((cache or default_folder()).resolve())  # workers may stand in another folder
    crew = Crew(shared=store.folder, jobs=jobs, paths=(str(path.resolve().parent),), progress=progress)
    hands = engines.create(engine, crew)
    subject = prepare(path, wanted, store, progress)
    if hands.parallel:
        prefetch.recover(subject, store, hands, progress)
    subject = pruned(subject, store, progress)
    if hands.parallel:
        prefetch.build(subject, store, hands)
    inputs = golden.generate(subject.stages, [form for forms in subject.variants.values() for form in forms])
    evaluator = Evaluator(subject, subject.splits["test"], store, lambda what: progress(0, 0, f"test: {what}"))
    test = TestSplit(subject, evaluator)
    finished = [_finish(subject, name, store, inputs, test, progress) for name in wanted.compile.targets]
    timings = _timings(subject, finished, store, progress)
    finished, timings = _never_slower(finished, timings, test)
    folder.mkdir(parents=True, exist_ok=True)
    made = report.Compiled(
        subject=subject,
        results={f.assembly.result.toolchain.target.name: f.assembly.result for f in finished},
        rungs={_target(f): _rungs(f, timings) for f in finished},
        rows=tuple(checked.row for f in finished for checked in f.assembly.result.checked.values()),
        timings=timings,
        reference=test.reference(),
        seconds=time.perf_counter() - started,
        recoveries=[recovery(one.stages, one.pruning, one.epochs) for one in subject.recoveries],
        limits=wanted.search.limits,
    )
    return _write(folder, finished, made)


def _target(finished: _Finished) -> str:
    return finished.assembly.result.toolchain.target.name


def _finish(
    subject: Subject, name: str, cache: Cache, inputs: golden.GoldenInputs, test: TestSplit, progress: Progress
) -> _Finished:
    """Compile for one target, check every file of it, and judge what was chosen on the test split."""
    result = TargetCompiler(subject, Toolchain.of(name, cache), progress).run(inputs)
    found = ladder(result.found.judged, result.found.winners, default=subject.recipe.search.objective)
    chosen = {rung: judged.candidates for rung, judged in found}
    accuracies = {rung: test.judge(result, combination) for rung, combination in chosen.items()}
    return _Finished(Assembly(subject, result, chosen, inputs), accuracies)


def _timings(subject: Subject, finished: Sequence[_Finished], cache: Cache, progress: Progress) -> Timings:
    """Time all rungs of all targets, and the float stages, against the reference: end to end, from bundles."""
    rungs = {
        _target(f): [plain_rung(n, c) for n, c in {**f.assembly.chosen, FLOAT_RUNG: f.assembly.result.floats}.items()]
        for f in finished
    }
    machines = {_target(f): f.assembly.result.machine for f in finished}
    files = [
        [r.name, [f.assembly.result.built[c].sha256 for c in r.candidates.values()]]
        for f in finished
        for r in rungs[_target(f)]
    ]
    key = [files, machines, subject.provenance, subject.splits["test"].digest, fingerprint.of_compiler()]

    def make() -> Timings:
        with tempfile.TemporaryDirectory(prefix="edgefuse-") as temporary:
            drafts = {}
            for f in finished:
                target, here = _target(f), rungs[_target(f)]
                drafts[target] = Path(temporary) / f"{target}.edgefuse"
                write_bundle(drafts[target], f.assembly.manifest(here), f.assembly.contents(here))
            return time_rungs(subject, drafts, machines, lambda what: progress(0, 0, what))

    return cache.record("timings", key, Timings, make)


def _never_slower(finished: Sequence[_Finished], timings: Timings, test: TestSplit) -> tuple[list[_Finished], Timings]:
    """Hold the rungs to what was measured of them end to end.

    The fastest rung gets its float stages where it was not shown to be faster than them, and a reduced rung that is not
    faster than the rung before it is left out.
    """
    kept: list[_Finished] = []
    rungs = {target: dict(of_target) for target, of_target in timings.rungs.items()}
    for f in finished:
        here, chosen, accuracies = rungs[_target(f)], dict(f.assembly.chosen), dict(f.accuracies)
        fastest, floats = NAMES["latency"], f.assembly.result.floats
        if chosen.get(fastest, floats) != floats and here[fastest].speedup_over_float.ci95[0] <= 1:
            logger.warning("%s: no combination is faster than float end to end: the fastest rung is float", _target(f))
            here[fastest], chosen[fastest] = here[FLOAT_RUNG], floats
            accuracies[fastest] = test.judge(f.assembly.result, floats)
        limit = min((here[name].figure.p50_ms for name in chosen if not reduced(name)), default=0.0)
        for name in [name for name in chosen if reduced(name)]:
            if here[name].figure.p50_ms >= limit:
                del chosen[name]
            else:
                limit = here[name].figure.p50_ms
        kept.append(replace(f, assembly=replace(f.assembly, chosen=chosen), accuracies=accuracies))
    return kept, msgspec.structs.replace(timings, rungs=rungs)


def _rungs(finished: _Finished, timings: Timings) -> tuple[Rung, ...]:
    """Return the rungs of a bundle with everything that was measured of them."""
    subject = finished.assembly.subject
    rungs = []
    for name, combination in finished.assembly.chosen.items():
        judged = finished.accuracies[name]
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
                figures=(timings.rungs[_target(finished)][name].figure,),
            )
        )
    return tuple(rungs)


def _write(folder: Path, finished: Sequence[_Finished], made: report.Compiled) -> CompileResult:
    """Write bundles and reports, each atomically."""
    paths = {}
    for f in finished:
        target = _target(f)
        paths[target] = folder / f"{made.subject.spec.name}-{target}.edgefuse"
        contents = f.assembly.contents(made.rungs[target])
        contents["report.json"] = report.encode(report.build(made, {target: paths[target]}))
        write_bundle(paths[target], f.assembly.manifest(made.rungs[target]), contents)
    whole = report.build(made, paths)
    report_json, report_html = report.write(folder, whole)
    return CompileResult(
        bundles=tuple(paths.values()),
        within_budget=all(bundle.within_budget for bundle in whole.bundles),
        report_json=report_json,
        report_html=report_html,
        summary=report.summary(whole),
    )
