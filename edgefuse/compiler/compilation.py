"""`edgefuse.compile`: from a recipe to checked bundles and a report.

Every step is a function over workers, whose default runs one job after the other; small records pass between the steps:

    take apart → check, lower the unpruned stages (fails here) → prepare the data → prune and recover → build candidates
        → measure each alone → search → judge on the test split → time the rungs → bundles and report
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Unpack, overload

from torch import nn

from edgefuse.bundle.manifest import Machine, members
from edgefuse.bundle.spec import ModelSpec
from edgefuse.bundle.writer import write_bundle
from edgefuse.compiler import forkserver
from edgefuse.compiler import workers as worker_kinds
from edgefuse.compiler.candidates.build import Builder
from edgefuse.compiler.candidates.golden import golden_inputs
from edgefuse.compiler.candidates.joined import join
from edgefuse.compiler.candidates.schemes import check_schemes
from edgefuse.compiler.candidates.target_data import Material, TargetData
from edgefuse.compiler.candidates.toolchain import Toolchains
from edgefuse.compiler.check.checking import Examination
from edgefuse.compiler.evaluation.budget import budget
from edgefuse.compiler.evaluation.evaluator import Evaluator
from edgefuse.compiler.evaluation.guesses import guesses
from edgefuse.compiler.evaluation.passes import Passes
from edgefuse.compiler.evaluation.runners import in_torch
from edgefuse.compiler.model.given import Given, given, is_of_model
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.preparation import prepare
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recipe import gpu
from edgefuse.compiler.recipe import recipe as recipes
from edgefuse.compiler.recipe.keywords import Keywords, call_of, recipe_of
from edgefuse.compiler.recipe.max_drop import MaxDrop
from edgefuse.compiler.recipe.wanted import recipe_for
from edgefuse.compiler.recovery.forms import recovered
from edgefuse.compiler.report import report
from edgefuse.compiler.rungs.final import TestSplit
from edgefuse.compiler.rungs.result import TargetResult, searched
from edgefuse.compiler.rungs.rungs import Finished, choose, finish, measured_rungs, timed
from edgefuse.compiler.timing import Timer, timer_of
from edgefuse.compiler.timing.refusing import of_the_world
from edgefuse.compiler.workers import Workers, in_one_thread
from edgefuse.datasets.cache import Cache, open_cache
from edgefuse.datasets.cache import cache_folder as default_folder
from edgefuse.datasets.sample import Splits
from edgefuse.errors import BundleError, EdgefuseError, RecipeError
from edgefuse.files import reason
from edgefuse.progress import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileResult:
    """The result of a compile.

    Attributes:
        bundles: one `.edgefuse` file per target that succeeded.
        within_budget: whether the default rung of every bundle holds the budget on the test split.
        failed: why there is no bundle for a target, by target.
        summary: a table for people.
        busy: which timings cannot be trusted, and what was seen meanwhile, in words; empty on a quiet machine.
    """

    bundles: tuple[Path, ...]
    within_budget: bool
    failed: Mapping[str, str]
    report_json: Path
    report_html: Path
    summary: str
    busy: tuple[str, ...] = ()


@overload
def compile(  # noqa: A001 - the verb of the tool
    recipe: Path | str,
    out: Path | str,
    *,
    targets: Sequence[str] | None = None,
    cache: Path | str | None = None,
    progress: Progress = silent,
    jobs: int = 1,
    engine: str = "local",
) -> CompileResult: ...


@overload
def compile(  # noqa: A001
    model: nn.Module,
    spec: ModelSpec,
    splits: Splits,
    *,
    out: Path | str,
    cache: Path | str | None = None,
    progress: Progress = silent,
    jobs: int = 1,
    engine: str = "local",
    **keywords: Unpack[Keywords],
) -> CompileResult: ...


def compile(*subject: Any, **keywords: Any) -> CompileResult:  # noqa: A001
    """Compile a recipe, or a model with its data: prune, quantize, export, search, verify, bundle and report.

    `compile(recipe, out)` takes a TOML file. `compile(model, spec, splits, out=…)` takes the same as objects, and the
    recipe's keys as keywords (`edgefuse.compiler.recipe.keywords`). Both take the same steps, and find each other's
    files in the cache.

    Args:
        subject: `recipe` and `out`; or `model`, a torch module, which stays as it is, its `spec`, and its `splits`.
        keywords: of both forms: `out`, the folder for bundles and report; `targets`, instead of the recipe's; `cache`,
            a folder, by default the user's; `progress`, which is told what is going on; `jobs`, how many recoveries or
            candidates are made at the same time, with the same result for any number; `engine`, where jobs run,
            `local` or `ray`: latency is measured here, when all are done. Of the second form: all keys of a recipe.

    Raises:
        RecipeError, ModelError, DataError: what the user gave is wrong; nothing was written.
        ExportError, CheckError, BackendError: every target failed; this is the error of the first.
        CacheError: the cache cannot be written, or has no room.
        EngineError, MissingExtraError: jobs cannot run as asked.
    """
    return (_of_model if is_of_model(subject, keywords) else _of_recipe)(*subject, **keywords)


def _of_recipe(
    recipe: Path | str, out: Path | str, *, targets: Sequence[str] | None = None, **settings: Any
) -> CompileResult:
    path = Path(recipe)
    return _compiled(path, recipe_for(path, targets), None, out, **settings)


def _of_model(
    model: nn.Module,
    spec: ModelSpec,
    splits: Splits,
    *,
    out: Path | str,
    cache: Path | str | None = None,
    progress: Progress = silent,
    jobs: int = 1,
    engine: str = "local",
    **keywords: Any,
) -> CompileResult:
    call = call_of("compile")
    recipe, at_hand = recipe_of(call, keywords), given(call, model, spec, splits)
    return _compiled(call, recipe, at_hand, out, cache, progress, jobs, engine)


@in_one_thread()
def _compiled(
    path: Path,
    wanted: recipes.Recipe,
    at_hand: Given | None,
    out: Path | str,
    cache: Path | str | None = None,
    progress: Progress = silent,
    jobs: int = 1,
    engine: str = "local",
) -> CompileResult:
    forkserver.leave_imported_script()
    started = time.perf_counter()
    folder = Path(out).absolute()
    _check_output(folder)
    store = open_cache(Path(cache) if cache else default_folder())
    imports = tuple(sys.path) if at_hand else (str(path.resolve().parent),)
    settings = worker_kinds.Settings(shared=store.folder, jobs=jobs, paths=imports, progress=progress)
    with worker_kinds.create(engine, settings) as workers:
        made = _Compile(path, wanted, at_hand, store, progress, timer_of(wanted), workers).run(started)
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder, *made)


def _check_output(folder: Path) -> None:
    """Refuse now a folder that could not be made, or written to, when the work is done.

    Raises:
        RecipeError: if that is so.
    """
    try:
        place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        with tempfile.TemporaryDirectory(prefix=".edgefuse-", dir=place) as probe:
            Path(probe, *folder.relative_to(place).parts).mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"the output folder {folder} cannot be used", got=reason(error), fix="name another one with --out"
        ) from error


@dataclass(frozen=True)
class _Compile:
    """One compile: what its steps share."""

    path: Path
    recipe: recipes.Recipe
    given: Given | None
    cache: Cache
    progress: Progress
    timer: Timer
    workers: Workers

    def run(self, started: float) -> tuple[Sequence[Finished], report.Compiled]:
        """Take all steps; return the targets' rungs, and the results for the report."""
        targets = self.recipe.compile.targets
        model = take_apart(self.path, self.recipe, self.given)
        reference = gpu.read(self.path, self.recipe.report.gpu, model.spec.name)
        check_schemes(self.recipe, [stage.spec for stage in model.stages])
        machines = {target: self._machine(target) for target in dict.fromkeys((*self.recipe.compile.members, *targets))}
        out = Examination(model, self.cache, self.workers, self.progress).head()
        builder = Builder(self.recipe.compile.members, self.cache, self.workers, out)
        _require_one(_with_joined(builder.failed, targets), targets)
        builder.lower(model.stages, golden_inputs(model.stages, model.spec))
        _require_one(_with_joined(builder.failed, targets), targets)
        subject = self._with_budget(prepare(model, self.cache, self.progress), model.max_drops)
        forms = recovered(subject, self.cache, self.workers)
        golden = golden_inputs(subject.stages, subject.spec, forms.all_pruned)
        forms = forms.without(golden.refused)
        material = Material(subject, forms, golden, self.cache)
        builder.build(material)
        failed = dict(builder.failed)
        results = self._searched([TargetData(material, made) for made in builder.live.values()], machines, failed)
        failed = {target: error for target, error in _with_joined(failed, targets).items() if target in targets}
        _require_one(failed, targets)
        results = self._joined(material, results, machines, failed)
        _require_one(failed, targets)
        finished, timings, test = self._judged(material, [results[t] for t in targets if t in results], failed)
        _require_one(failed, targets)
        finished = [replace(f, assembly=f.assembly.streaming()) for f in finished]
        return finished, report.Compiled(
            subject=subject,
            forms=forms,
            results={f.target: f.result for f in finished},
            rungs={f.target: measured_rungs(f, timings) for f in finished},
            timings=timings,
            reference=test.reference(),
            judged={f.target: f.accuracies for f in finished},
            failed={target: str(error) for target, error in failed.items()},
            seconds=time.perf_counter() - started,
            gpu=reference,
        )

    def _machine(self, target: str) -> Machine:
        """Return what a target's figures are of; what a device lacks is told now, not when all is made."""
        return self.timer.describe(Toolchains.of(target, self.cache).backends, self.recipe.compile.threads)

    def _with_budget(self, subject: Subject, asked: Mapping[str, MaxDrop]) -> Subject:
        """Run the model in torch over the splits that every drop is measured on; what it reaches gives the budget."""
        chain = in_torch(subject)
        encoders = [stage for stage in subject.specs if stage.role == "encoder"]
        splits, passes = ("test", "validation"), Passes(subject, self.cache, self.workers)
        seen = [name for name in (*splits, UNLABELLED) if name in subject.splits]
        passes.keep_features([(split, stage, chain) for split in seen for stage in encoders], "run the reference")
        passes.keep_outputs([(split, chain) for split in seen], "run the reference")
        answers = {
            split: Evaluator(subject, subject.splits[split], self.cache, partial(self.progress, 0, 0)).answers(chain)
            for split in splits
        }
        subject = replace(subject, guesses=guesses(subject, answers["validation"]))
        return replace(subject, budget=budget(subject, asked, answers))

    def _searched(
        self,
        live: Sequence[TargetData],
        machines: Mapping[str, Machine],
        failed: dict[str, EdgefuseError],
        parts: Sequence[TargetResult] = (),
    ) -> dict[str, TargetResult]:
        """Measure and search target by target, while no job runs; one that fails is left out."""
        results: dict[str, TargetResult] = {}
        for data in live:
            target = data.candidates.target
            try:
                note = partial(self.progress, 0, 0)
                results[target] = searched(data, self.timer, machines[target], note, parts)
            except EdgefuseError as error:
                if of_the_world(error):
                    raise
                logger.warning("%s is left out: %s", target, error)
                failed[target] = error
        return results

    def _joined(
        self,
        material: Material,
        results: Mapping[str, TargetResult],
        machines: Mapping[str, Machine],
        failed: dict[str, EdgefuseError],
    ) -> dict[str, TargetResult]:
        """Add the results of joined targets: their members' candidates, measured together and searched as one."""
        found = dict(results)
        for target in self.recipe.compile.targets:
            if len(members(target)) == 1 or target in failed:
                continue
            parts = sorted((results[member] for member in members(target)), key=lambda result: result.float_p50)
            data = TargetData(material, join(target, [part.data.candidates for part in parts]))
            found |= self._searched([data], machines, failed, parts)
        return found

    def _judged(
        self, material: Material, results: Sequence[TargetResult], failed: dict[str, EdgefuseError]
    ) -> tuple[list[Finished], report.Timings, TestSplit]:
        """Judge the rungs of all targets on the test split, and time them; one that cannot be timed is left out."""
        leaves = [stage for stage in material.subject.specs if stage.role == "encoder"]
        chosen = [result.runners(combination) for result in results for combination in choose(result).values()]
        passes = Passes(material.subject, self.cache, self.workers)
        passes.keep_features([("test", leaf, runners) for leaf, runners in product(leaves, chosen)], "judge")
        passes.keep_outputs([("test", runners) for runners in chosen], "judge")
        test = TestSplit(material.subject, self.cache, lambda what: self.progress(0, 0, f"test: {what}"))
        finished = [finish(result, test) for result in results]
        kept, timings, untimed = timed(finished, test, self.cache, self.progress, self.timer)
        failed |= untimed
        return kept, timings, test


def _with_joined(failed: Mapping[str, EdgefuseError], targets: Sequence[str]) -> dict[str, EdgefuseError]:
    """Return the errors by target; a joined one fails with the first of its members."""
    joined = {t: next((failed[member] for member in members(t) if member in failed), None) for t in targets}
    return {**failed, **{target: error for target, error in joined.items() if error is not None}}


def _require_one(failed: Mapping[str, EdgefuseError], targets: Sequence[str]) -> None:
    """Raise the error of the first target if every target has failed."""
    if all(target in failed for target in targets):
        raise failed[targets[0]]


def _write(folder: Path, finished: Sequence[Finished], made: report.Compiled) -> CompileResult:
    """Write bundles and reports, each atomically; a bundle that cannot be written leaves the others."""
    paths: dict[str, Path] = {}
    failed: dict[str, EdgefuseError] = {}
    for f in finished:
        path = folder / f"{made.subject.spec.name}-{f.target}.edgefuse"
        contents = f.assembly.contents(made.rungs[f.target])
        contents["report.json"] = report.encode(report.build(made, {f.target: path}, written=False))
        try:
            write_bundle(path, f.assembly.manifest(made.rungs[f.target]), contents)
        except BundleError as error:
            logger.warning("%s is left out: %s", f.target, error)
            failed[f.target] = error
        else:
            paths[f.target] = path
    _require_one(failed, [f.target for f in finished])
    made = replace(made, failed={**made.failed, **{target: str(error) for target, error in failed.items()}})
    whole = report.build(made, paths)
    report_json, report_html = report.write(folder, whole)
    return CompileResult(
        bundles=tuple(paths.values()),
        within_budget=all(bundle.within_budget for bundle in whole.bundles),
        failed=made.failed,
        report_json=report_json,
        report_html=report_html,
        summary=report.summary(whole),
        busy=report.busy(whole.timings),
    )
