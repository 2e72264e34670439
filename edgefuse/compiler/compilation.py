"""`edgefuse.compile`: from a recipe to checked bundles and a report."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from edgefuse.bundle.manifest import Rung, Tolerance
from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler import fingerprint, golden, report
from edgefuse.compiler import recipe as recipes
from edgefuse.compiler.assemble import RUNG_NAMES, Assembly, chosen_rungs, plain_rung
from edgefuse.compiler.cache import Cache, default_folder
from edgefuse.compiler.candidates import Built, Toolchain
from edgefuse.compiler.evaluate import Evaluator
from edgefuse.compiler.final import FLOAT_RUNG, RungAccuracy, TestSplit, Timings, time_rungs
from edgefuse.compiler.report_schema import GoldenRow
from edgefuse.compiler.subject import Subject, prepare
from edgefuse.compiler.target import TargetCompiler, TargetResult
from edgefuse.errors import CheckError
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
    rows: tuple[GoldenRow, ...]
    accuracies: Mapping[str, RungAccuracy]


def compile(  # noqa: A001 - the verb of the tool
    recipe: Path | str,
    out: Path | str,
    *,
    targets: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> CompileResult:
    """Compile a recipe: prune, quantize, export, search, verify, bundle and report.

    Args:
        recipe: a TOML file.
        out: the folder for bundles and report.
        targets: instead of the recipe's.
        cache: the folder of the cache; the user's by default.
        progress: is told what is going on.

    Raises:
        RecipeError, ModelError, DataError: what the user gave is wrong; nothing was written.
        ExportError: a target cannot lower a stage.
        CheckError: a float file does not agree with torch, or a quantized one is broken beyond use.
    """
    started = time.perf_counter()
    path, folder = Path(recipe), Path(out)
    wanted = recipes.load(path)
    if targets:
        wanted = msgspec.structs.replace(
            wanted, compile=msgspec.structs.replace(wanted.compile, targets=tuple(targets))
        )
        recipes.check(path, wanted)
    store = Cache(cache or default_folder())
    subject = prepare(path, wanted, store, progress)
    inputs = golden.generate(subject.stages)
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
        rows=tuple(row for f in finished for row in f.rows),
        timings=timings,
        reference=test.reference(),
        seconds=time.perf_counter() - started,
    )
    return _write(folder, finished, made)


def _target(finished: _Finished) -> str:
    return finished.assembly.result.toolchain.target.name


def _finish(
    subject: Subject, name: str, cache: Cache, inputs: golden.GoldenInputs, test: TestSplit, progress: Progress
) -> _Finished:
    """Compile for one target, check every file of it, and judge what was chosen on the test split."""
    result = TargetCompiler(subject, Toolchain.of(name, cache), progress).run()
    rows, tolerances = _golden(result, inputs, cache)
    chosen = chosen_rungs(result.found.winners, subject.recipe.search.objective)
    accuracies = {rung: test.judge(result, combination) for rung, combination in chosen.items()}
    return _Finished(Assembly(subject, result, chosen, tolerances, inputs), rows, accuracies)


class _GoldenResult(msgspec.Struct):
    row: GoldenRow
    tolerance: Tolerance


def _golden(
    result: TargetResult, inputs: golden.GoldenInputs, cache: Cache
) -> tuple[tuple[GoldenRow, ...], dict[str, Tolerance]]:
    """Hold every file to the golden table.

    Raises:
        CheckError: if a float file fails, or a quantized one that was chosen.
    """
    versions = result.toolchain.backend.versions()

    def checked(built: Built) -> _GoldenResult:
        key = [built.sha256, inputs.digest, versions, fingerprint.of_compiler()]
        return cache.record(
            "golden", key, _GoldenResult, lambda: _GoldenResult(*golden.check(built, result.toolchain.backend, inputs))
        )

    found = {id_: checked(built) for id_, built in result.built.items()}
    chosen = {c for judged in result.found.winners.values() for c in judged.candidates.values()}
    for id_ in sorted(chosen | set(result.floats.values())):
        if not found[id_].row.ok:
            raise CheckError(
                f"{result.toolchain.target.name}: the file of '{id_}' does not agree with torch on the golden inputs",
                got=f"a largest error of {found[id_].row.max_abs_error:.3g} and {found[id_].row.snr_db} dB",
                expected=f"{found[id_].row.tolerance}",
                fix="leave the scheme out under [schemes] in the recipe, or report it with the model",
            )
    return tuple(one.row for one in found.values()), {id_: one.tolerance for id_, one in found.items()}


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
    """Give the fastest rung its float stages where the whole was not shown to be faster than them, end to end."""
    kept: list[_Finished] = []
    rungs = {target: dict(of_target) for target, of_target in timings.rungs.items()}
    for f in finished:
        result, fastest = f.assembly.result, RUNG_NAMES["latency"]
        here = rungs[_target(f)]
        if f.assembly.chosen[fastest] != result.floats and here[fastest].speedup_over_float.ci95[0] <= 1:
            logger.warning("%s: no combination is faster than float end to end: the fastest rung is float", _target(f))
            here[fastest] = here[FLOAT_RUNG]
            chosen = {**f.assembly.chosen, fastest: result.floats}
            accuracies = {**f.accuracies, fastest: test.judge(result, result.floats)}
            f = replace(f, assembly=replace(f.assembly, chosen=chosen), accuracies=accuracies)
        kept.append(f)
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
                objective="latency" if name == RUNG_NAMES["latency"] else "size",
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
