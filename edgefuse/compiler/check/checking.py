"""`edgefuse.check`: everything that stands in the way of a compile, before any long work.

A compile begins with the same examination. What is wrong with one target, one stage or one sample never keeps the rest
from being looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse.compiler import forkserver
from edgefuse.compiler import workers as worker_kinds
from edgefuse.compiler.candidates.golden import golden_inputs
from edgefuse.compiler.candidates.schemes import check_schemes
from edgefuse.compiler.check.answers import unanswered
from edgefuse.compiler.check.batches import mixing
from edgefuse.compiler.check.budget import doubtful, unholdable
from edgefuse.compiler.check.data import SplitRead, oddities, read_splits
from edgefuse.compiler.check.data import faults as faults_of
from edgefuse.compiler.check.estimate import Known, estimate
from edgefuse.compiler.check.lowering import Lowerings, lowerings
from edgefuse.compiler.check.padding import padding_findings
from edgefuse.compiler.check.pruning import trials
from edgefuse.compiler.check.record import Check, Finding
from edgefuse.compiler.check.sizes import found_stages
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.subject import Model
from edgefuse.compiler.recipe import gpu
from edgefuse.compiler.recipe.wanted import recipe_for
from edgefuse.compiler.timing import timer_of
from edgefuse.compiler.workers import Workers, in_one_thread
from edgefuse.datasets.cache import Cache, cache_folder, open_cache
from edgefuse.errors import EdgefuseError, ModelError
from edgefuse.progress import Progress, silent
from edgefuse.runtime.processor import available_processors
from edgefuse.stages.examples import masks_of
from edgefuse.stages.stage import parameters_of

logger = logging.getLogger(__name__)

READING_SECONDS = 8.0
"""How long a check reads samples: what can be read in that time stands for the rest."""

_HEAD_SECONDS = 2.0
"""The same at the head of a compile, which reads all of them soon after."""

_LARGE = 5_000_000
"""Parameters from which two processes are worth their start."""


@in_one_thread()
def check(
    recipe: Path | str,
    *,
    targets: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
    jobs: int | None = None,
) -> Check:
    """Say what a compile of a recipe would meet, in seconds.

    Args:
        recipe: a TOML file.
        targets: instead of the recipe's.
        cache: the folder of the cache, where a compile finds what was lowered here; the user's by default.
        progress: is told what is going on.
        jobs: how many processes lower stages; by default two for a large model, where there are processors for them.

    Raises:
        RecipeError, ModelError, DataError: the recipe, the model or the data cannot be opened at all.
        CacheError, EngineError: the cache, or processes, cannot be used.
    """
    forkserver.leave_imported_script()
    began = time.perf_counter()
    path = Path(recipe)
    wanted = recipe_for(path, targets)
    store = open_cache(cache or cache_folder())
    timer_of(wanted)  # refuses what cannot be measured together
    model = take_apart(path, wanted)
    gpu.read(path, wanted.report.gpu, model.spec.name)
    check_schemes(wanted, [stage.spec for stage in model.stages])
    settings = worker_kinds.Settings(
        shared=store.folder, jobs=jobs or _jobs(model), paths=(str(path.resolve().parent),), progress=progress
    )
    with worker_kinds.create("local", settings) as workers:
        examined = Examination(model, store, workers, progress).whole()
    return msgspec.structs.replace(examined, seconds=round(time.perf_counter() - began, 1))


def _jobs(model: Model) -> int:
    return min(2, available_processors()) if parameters_of(model.module) > _LARGE else 1


@dataclass(frozen=True)
class Examination:
    """Looks at a model and its data, from what is cheap to what takes seconds."""

    model: Model
    cache: Cache
    workers: Workers
    progress: Progress

    def whole(self) -> Check:
        """Look at everything, whatever is found."""
        model = self.model
        read, errors = self._read(READING_SECONDS)
        faults = _mixing(model)
        stopping = [
            *(Finding(about="model", stage=name, says=str(error), stops=True) for name, error in faults.items()),
            *(Finding(about="data", says=str(error), stops=True) for error in errors),
        ]
        try:
            lowered = self._lowered()
        except ModelError as error:  # torch itself gives no answer
            lowered = Lowerings((), {}, {})
            if not faults:
                stopping.insert(0, Finding(about="model", says=str(error), stops=True))
        stages = found_stages(model.stages, lowered.files)
        pruned = trials(model.recipe, model.stages, self.cache, self.workers)
        findings = [
            *stopping,
            *(
                Finding(about="target", target=target, says=str(error), stops=True)
                for target, error in lowered.errors.items()
            ),
            *(
                Finding(about="pruning", stage=one.stage, says=f"'{one.stage}' is left unpruned: {one.says}")
                for one in pruned
                if one.asked and one.says
            ),
            *padding_findings(model.stages, model.recipe.compile.members),
            *unholdable(model, stages, pruned),
            *doubtful(model, lowered.stages, read),
            *oddities(model.spec, read),
        ]
        self.progress(0, 0, "check: estimate")
        known = Known(model, stages, lowered.stages, pruned, read)
        return Check(
            model=model.spec.name,
            targets=model.recipe.compile.targets,
            stages=stages,
            notes=model.found.notes,
            lowered=lowered.stages,
            pruned=pruned,
            findings=tuple(sorted(findings, key=lambda finding: not finding.stops)),
            samples={split.name: (split.read, split.total) for split in read},
            estimate=None if stopping else estimate(known),
        )

    def head(self) -> Mapping[str, EdgefuseError]:
        """Return the error of each target of which nothing can come, and stop at what concerns all of them.

        Raises:
            ModelError, DataError, MeasureError: what stands in the way of every target. The others like it are logged.
        """
        read, errors = self._read(_HEAD_SECONDS)
        if errors:
            _refuse(errors)
        model = self.model
        if faults := _mixing(model):
            _refuse([*faults.values()])
        lowered = self._lowered()
        known = [
            *padding_findings(model.stages, model.recipe.compile.members),
            *doubtful(model, lowered.stages, read),
            *oddities(model.spec, read),
        ]
        if not model.recipe.prune.wanted:  # what is left by pruning is known when it is rehearsed
            known += unholdable(model, found_stages(model.stages, lowered.files), ())
        for finding in known:
            logger.warning("%s", finding.says)
        return lowered.errors

    def _read(self, seconds: float) -> tuple[list[SplitRead], list[EdgefuseError]]:
        """Read samples; return what is wrong with them, or with what torch makes of them."""
        read = read_splits(self.model, seconds, self.progress)
        errors = list(faults_of(self.model, read))
        if not errors:
            self.progress(0, 0, "check: answer samples")
            errors = list(unanswered(self.model, [one for split in read for one in split.samples]))
        return read, errors

    def _lowered(self) -> Lowerings:
        model = self.model
        golden = golden_inputs(model.stages, model.spec)
        return lowerings(model.stages, model.recipe.compile.members, golden, self.cache, self.workers)


def _mixing(model: Model) -> dict[str, ModelError]:
    return mixing(model.stages, masks_of(model.spec), [modality.name for modality in model.spec.modalities])


def _refuse(errors: Sequence[EdgefuseError]) -> None:
    """Raise the first of several errors, and say the others."""
    for other in errors[1:]:
        logger.warning("%s", other)
    raise errors[0]
