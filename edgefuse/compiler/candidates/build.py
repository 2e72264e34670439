"""The candidates of all targets, made by workers: lowered, quantized, held to torch, run over the validation set.

Stages of one modality come first, then each stage that reads their features, calibrated on what their candidates give.
A target of which something fails is left out, with its error; the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates import calibrating
from edgefuse.compiler.candidates.built import FLOAT, Built, candidate_id
from edgefuse.compiler.candidates.golden import Checked, GoldenInputs, check
from edgefuse.compiler.candidates.schemes import calibrated
from edgefuse.compiler.candidates.target_data import Candidates, Material, TargetData, note
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.evaluation.runners import Runner
from edgefuse.compiler.workers import Tried, Workers
from edgefuse.datasets.cache import Cache
from edgefuse.errors import BackendError, CheckError, EdgefuseError, ExportError, QuantizeError
from edgefuse.export.answers import padding_matters
from edgefuse.export.target import as_lowered
from edgefuse.stages.padding import dependences, takes_variable_features
from edgefuse.stages.stage import TorchStage

logger = logging.getLogger(__name__)

Made: TypeAlias = Built | str
"""A candidate, or why there is none."""


class Builder:
    """Makes candidates step by step.

    Args:
        targets: their names.
        cache: where files and answers are kept.
        workers: run the jobs of each step.
        failed: the error of each target that is known to be out.

    Attributes:
        live: what there is, by target.
        failed: the error of each target that is out.
    """

    def __init__(
        self,
        targets: Sequence[str],
        cache: Cache,
        workers: Workers,
        failed: Mapping[str, EdgefuseError] = MappingProxyType({}),
    ) -> None:
        self.live = {target: Candidates(target, {}) for target in targets}
        self.failed: dict[str, EdgefuseError] = {}
        for target, error in failed.items():
            self._leave_out(target, error)
        self._cache = cache
        self._workers = workers

    def lower(self, stages: Sequence[TorchStage], golden: GoldenInputs) -> None:
        """Lower the unpruned stages in float and hold the files to torch: what cannot be lowered is known now."""
        self._refuse_padding(stages)
        jobs = [(target, stage) for target in self.live for stage in stages]
        self._lower(jobs)
        self._hold([stage.spec for stage in stages], golden)

    def _refuse_padding(self, stages: Sequence[TorchStage]) -> None:
        """Leave out targets that pad if a stage depends on what earlier ones give behind the true size.

        A stage that pads what comes from outside is held to this where it is lowered. Later ones take what the form
        gives that is lowered: one that ends by its length gives other steps than the stage as it came.
        """
        if not any(takes_variable_features(stage.spec) for stage in stages):
            return
        targets = [Toolchain.of(name, self._cache).target for name in self.live]
        for target in (target for target in targets if target.pads):
            found = dependences(as_lowered(target, stages))
            later = [found[s.spec.name] for s in stages if takes_variable_features(s.spec) and s.spec.name in found]
            if later:
                self._leave_out(target.name, padding_matters(later[0], target.title))

    def build(self, material: Material, *, judged: bool = True) -> None:
        """Add the forms of all stages, and the quantized candidates, and keep what they answer.

        Args:
            material: what they are made of.
            judged: whether they are run over the validation set.
        """
        specs = material.subject.specs
        pruned = [form for spec in specs for form in material.forms.of(spec.name)[1:]]
        self._lower([(target, form) for target in self.live for form in pruned])
        self._hold(specs, material.golden)  # a pruned file that is broken is neither quantized nor timed
        for group in calibrating.stages_of(specs):
            self._calibrate(material, group)
            self._quantize(material, group)
            self._hold(group, material.golden)
            if judged:
                self._evaluate(material, group)

    def _evaluate(self, material: Material, group: Sequence[StageSpec]) -> None:
        """Run candidates over the validation set; leave out those that fail there."""
        jobs = [(t, s, one) for t, made in self.live.items() for s in group for one in made.built[s.name]]
        for (target, _, one), refused in self._run(Evaluate(material, dict(self.live)), jobs, "run candidates"):
            if refused:
                self._drop(target, one, refused)

    def _lower(self, jobs: Sequence[tuple[str, TorchStage]]) -> None:
        for (target, form), one in self._run(Lower(self._cache), jobs, "lower"):
            self._settle(target, form.spec, candidate_id(form.spec.name, form.pruning, FLOAT), one)

    def _calibrate(self, material: Material, group: Sequence[StageSpec]) -> None:
        """Run the stages before a group over the calibration set, each candidate once, before jobs wait for them."""
        jobs = [
            (target, leaf, chain)
            for target, made in self.live.items()
            for stage in group
            if any(calibrated(scheme) for _, scheme in calibrating.pairs(TargetData(material, made), stage))
            for leaf, chain in calibrating.chains(TargetData(material, made), stage)
        ]
        self._run(Calibrate(material, dict(self.live)), jobs, "run calibration")

    def _quantize(self, material: Material, group: Sequence[StageSpec]) -> None:
        """Add the quantized candidates of stages: each float file in every scheme, and closer ones where that is asked.

        The order is that of the schemes, each with the closer ones behind it, however jobs end.
        """
        jobs = [
            (target, stage, source, scheme)
            for target, made in self.live.items()
            for stage in group
            for source, scheme in calibrating.pairs(TargetData(material, made), stage)
        ]
        made = self._run(Quantize(material, dict(self.live)), jobs, "quantize")
        goals_db = material.subject.recipe.quantize.goals_db
        asked = [job for job, one in made if goals_db and isinstance(one, Built) and job[3].name.startswith("static")]
        found = self._run(Closer(material, dict(self.live)), asked, "look for closer schemes")
        closer = {(job[0], job[2].id, job[3]): others for job, others in found}
        tried = {(target, source.id, scheme) for target, _, source, scheme in jobs}
        for (target, stage, source, scheme), one in made:
            self._settle(target, stage, candidate_id(stage.name, source.pruning, scheme), one)
            for other, built in closer.get((target, source.id, scheme), ()):
                if (target, source.id, other) not in tried:
                    tried.add((target, source.id, other))
                    self._settle(target, stage, candidate_id(stage.name, source.pruning, other), built)

    def _settle(self, target: str, stage: StageSpec, name: str, made: Made) -> None:
        if target not in self.live:
            return
        if isinstance(made, Built):
            self._add(target, stage.name, [made])
        else:
            self._refuse(target, name, made)

    def _hold(self, group: Iterable[StageSpec], golden: GoldenInputs) -> None:
        """Hold stages' new files to the golden inputs; leave out what is broken."""
        names = [spec.name for spec in group]
        jobs = [
            (target, built)
            for target, made in self.live.items()
            for name in names
            for built in made.built[name]
            if built.id not in made.checked
        ]
        for (target, built), found in self._run(Hold(golden, self._cache), jobs, "hold to torch"):
            if isinstance(found, str):
                self._drop(target, built, found)
                continue
            made = self.live[target]
            self.live[target] = replace(made, checked={**made.checked, built.id: found})
            if not found.row.ok:
                self._drop(target, built, f"broken: {found.row.snr_db} dB against torch on the golden inputs")

    def _add(self, target: str, stage: str, files: Sequence[Built]) -> None:
        made = self.live[target]
        self.live[target] = replace(made, built={**made.built, stage: (*made.built.get(stage, ()), *files)})

    def _drop(self, target: str, built: Built, reason: str) -> None:
        """Leave a file out that was made and cannot be used."""
        logger.warning("%s: %s is left out: %s", target, built.id, reason)
        made = self.live[target]
        kept = tuple(one for one in made.built[built.stage] if one != built)
        self.live[target] = replace(made, built={**made.built, built.stage: kept})
        self._refuse(target, built.id, reason)

    def _refuse(self, target: str, name: str, reason: str) -> None:
        made = self.live[target]
        self.live[target] = replace(made, refused={**made.refused, name: reason})

    def _leave_out(self, target: str, error: EdgefuseError) -> None:
        logger.warning("%s is left out: %s", target, error)
        self.failed[target] = error
        del self.live[target]

    def _run(self, function: Callable[[Any], Any], jobs: Sequence[Any], what: str) -> list[tuple[Any, Any]]:
        """Run jobs, whose first part is a target; return what came of those whose targets have not failed."""
        jobs = [job for job in jobs if job[0] in self.live]
        results = self._workers.map(Tried(function), jobs, what) if jobs else []
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, EdgefuseError) and job[0] in self.live:
                self._leave_out(job[0], result)
        return [(job, result) for job, result in zip(jobs, results, strict=True) if job[0] in self.live]


@dataclass(frozen=True)
class Lower:
    """Lowers one form of a stage for a target."""

    cache: Cache

    def __call__(self, job: tuple[str, TorchStage]) -> Made:
        """Take a target and the form; return why a pruned form cannot be lowered: the others of the stage can be.

        Raises:
            ExportError: if the unpruned form cannot be lowered.
        """
        target, form = job
        try:
            return self.file(job)
        except ExportError as error:
            if form.pruning is None:
                raise
            logger.warning("%s: %s is not pruned by %s: %s", target, form.spec.name, form.pruning.id, error)
            return str(error)

    def file(self, job: tuple[str, TorchStage]) -> Built:
        """Take a target and any form; `ExportError` if it cannot be lowered."""
        target, form = job
        note(f"{target}: lower {candidate_id(form.spec.name, form.pruning, FLOAT)}")
        return Toolchain.of(target, self.cache).lower(form)


@dataclass(frozen=True)
class Hold:
    """Opens a file in its runtime and holds it to the golden inputs."""

    golden: GoldenInputs
    cache: Cache

    def __call__(self, job: tuple[str, Built]) -> Checked | str:
        """Take a target and a file of it; return why the runtime does not take it, if a stage can do without it.

        Raises:
            CheckError: if the file of an unpruned stage in float does not agree with torch.
            BackendError: if the runtime does not take that one.
        """
        target, built = job
        backend = Toolchain.of(target, self.cache).backend
        key = [built.id, built.sha256, self.golden.digest, backend.versions(), fingerprint.of_compiler()]
        try:
            found = self.cache.record("golden", key, Checked, partial(check, built, backend, self.golden))
        except BackendError as error:
            if not built.is_float:
                return str(error)
            raise BackendError(f"the file of '{built.id}' cannot be used: {str(error).rstrip('.')}") from error
        if not found.row.ok and built.is_float:
            raise CheckError(
                f"{built.target}: the file of '{built.id}' does not agree with torch on the golden inputs",
                got=f"a largest error of {found.row.max_abs_error:.3g} and {found.row.snr_db} dB",
                expected=f"{found.row.tolerance}",
                fix="report it with the model: the converter computes something else",
            )
        return found


@dataclass(frozen=True)
class _OnData:
    """Jobs on candidates and data; `live` holds all candidates of the stages before, by target."""

    material: Material
    live: Mapping[str, Candidates]

    def data(self, target: str) -> TargetData:
        """Return a target's candidates on the data."""
        return TargetData(self.material, self.live[target])


@dataclass(frozen=True)
class Calibrate(_OnData):
    """Runs a stage of one modality over the calibration set, for a stage that reads its features."""

    def __call__(self, job: tuple[str, StageSpec, Mapping[str, Runner]]) -> None:
        """Take a target, the stage, and what runs it and those before it."""
        target, stage, chain = job
        self.data(target).evaluator("calibration").features(stage, chain)


@dataclass(frozen=True)
class Quantize(_OnData):
    """Applies one scheme to a float file."""

    def __call__(self, job: tuple[str, StageSpec, Built, Scheme]) -> Made:
        """Take a target, a stage, its file and the scheme; return why there is no candidate where that is so."""
        target, stage, source, scheme = job
        note(f"{target}: quantize {candidate_id(stage.name, source.pruning, scheme)}")
        data = self.data(target)
        try:
            return data.tools(source).quantize(calibrating.quantizable(data, stage, source), scheme)
        except (QuantizeError, ExportError) as error:  # some schemes lower a stage that was changed in torch
            return str(error)


@dataclass(frozen=True)
class Closer(_OnData):
    """Looks for schemes that are closer to float than a static one that misses its goals, and applies them."""

    def __call__(self, job: tuple[str, StageSpec, Built, Scheme]) -> list[tuple[Scheme, Made]]:
        """Take a target, a stage, its file and the scheme."""
        target, stage, source, scheme = job
        data = self.data(target)
        item = calibrating.quantizable(data, stage, source)
        goals_db = self.material.subject.recipe.quantize.goals_db
        try:
            found = data.tools(source).closer(item, scheme, goals_db, partial(data.snr_db, stage, against=source))
        except (BackendError, ExportError) as error:  # of a file in one of the schemes; it is held to torch later
            logger.warning("%s: no closer schemes for %s: %s", target, source.id, error)
            return []
        apply = Quantize(self.material, self.live)
        return [(one, apply((target, stage, source, one))) for one in found]


@dataclass(frozen=True)
class Evaluate(_OnData):
    """Runs one candidate over the validation set, all other stages in float."""

    def __call__(self, job: tuple[str, StageSpec, Built]) -> str:
        """Take a target, a stage, and the candidate; return why it cannot be used, if it cannot.

        Raises:
            BackendError: if the file of the unpruned stage in float fails.
        """
        target, stage, candidate = job
        try:
            self.data(target).evaluate(stage, candidate)
        except BackendError as error:
            if candidate.is_float:
                raise
            return f"it fails on the validation set: {error}"
        return ""
