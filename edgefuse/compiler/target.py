"""Compile a model for one target: candidates per stage, each measured, and the search over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from types import MappingProxyType

from edgefuse.bundle.manifest import Machine, Scheme, Tolerance
from edgefuse.bundle.spec import Record, StageSpec, subset_name
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates import aware
from edgefuse.compiler.candidates.golden import Checked, GoldenInputs, check
from edgefuse.compiler.candidates.toolchain import FLOAT, Built, Toolchain, candidate_id, wanted_schemes
from edgefuse.compiler.evaluation.evaluator import Evaluator, FileRunner, Outputs, Runner, in_torch, is_leaf
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.search import Combination, Found, Search, StageFigure, SubsetDrop
from edgefuse.compiler.timing import HERE, Contender, Timer, kept
from edgefuse.errors import CheckError, QuantizeError
from edgefuse.export.costs import counting as costs
from edgefuse.measure.agreement import agreement
from edgefuse.measure.metrics import Metric
from edgefuse.measure.pressure import Pressure
from edgefuse.progress import Progress
from edgefuse.stages.stage import Array, Feeds, FeedSource, TorchStage

_TIMED_FEEDS = 16
# What is written for an infinite ratio: no difference at all.
_EXACT_DB = 200.0


class _Figures(Record, frozen=True, kw_only=True):
    """The measured candidates of one stage, as the cache keeps them."""

    figures: tuple[StageFigure, ...]

    @property
    def pressure(self) -> Pressure:
        """What else the machine did: they were timed together."""
        return self.figures[0].pressure


@dataclass(frozen=True)
class TargetResult:
    """What compiling for one target found.

    Attributes:
        built: every candidate by id.
        refused: schemes that could not be applied, by candidate id, with the reason.
        figures: what was measured of every candidate, stage by stage.
        checked: how every file did on the golden inputs, by candidate id, the broken ones among them.
    """

    toolchain: Toolchain
    machine: Machine
    built: Mapping[str, Built]
    refused: Mapping[str, str]
    figures: Sequence[StageFigure]
    found: Found
    checked: Mapping[str, Checked]

    def runners(self, combination: Combination) -> dict[str, Runner]:
        """Return what runs each stage of a combination."""
        return {stage: self.runner(candidate) for stage, candidate in combination.items()}

    def runner(self, candidate: str) -> FileRunner:
        """Return what runs a candidate."""
        return FileRunner(self.built[candidate], self.toolchain.backend, self.machine.threads)

    def size_bytes(self, combination: Combination) -> int:
        """Return the size of a combination's stage files, frontends apart."""
        sizes = {figure.candidate: figure.size_bytes for figure in self.figures}
        return sum(sizes[candidate] for candidate in combination.values())

    @property
    def floats(self) -> Combination:
        """The combination of the float files."""
        return {figure.stage: figure.candidate for figure in self.figures if figure.is_float}


@dataclass(frozen=True)
class Baseline:
    """The unpruned float files of a target, which stages with other interfaces than theirs are measured against.

    Attributes:
        result: of compiling the stages whose interfaces stayed.
        feeds: gives real feeds of one of those stages, by its name.
    """

    result: TargetResult
    feeds: Callable[[str], list[Feeds]]

    @property
    def p50_ms(self) -> float:
        """The latency of the float files, one after the other."""
        return sum(figure.p50_ms for figure in self.result.figures if figure.is_float)

    @property
    def errors(self) -> dict[str, float]:
        """The standard errors of the drops of the float files, by subset."""
        floats = next(one for one in self.result.found.judged if one.candidates == self.result.floats)
        return {subset: drop.standard_error for subset, drop in floats.drops.items()}


class TargetCompiler:
    """Compiles for one target.

    Args:
        subject: the model and its data.
        toolchain: of the target.
        progress: is told what is going on.
        built: candidates that were made already, by stage.
        baseline: for stages whose interfaces were narrowed.
        timer: compares the candidates of a stage.
    """

    def __init__(
        self,
        subject: Subject,
        toolchain: Toolchain,
        progress: Progress,
        built: Mapping[str, Sequence[Built]] = MappingProxyType({}),
        baseline: Baseline | None = None,
        timer: Timer = HERE,
    ) -> None:
        self._subject = subject
        self._baseline = baseline
        self._tools = toolchain
        self._threads = subject.recipe.compile.threads
        self._timer = timer
        self._machine = timer.describe(toolchain.backend, self._threads)
        self._progress = progress
        self._steps = 0
        cache = toolchain.cache
        self._calibration = Evaluator(subject, subject.splits["calibration"], cache, self._note)
        self._validation = Evaluator(subject, subject.splits["validation"], cache, self._note)
        self._built: dict[str, list[Built]] = {stage: list(made) for stage, made in built.items()}
        self._refused: dict[str, str] = {}

    def run(self, golden: GoldenInputs) -> TargetResult:
        """Build, check, measure and search.

        Args:
            golden: what every file is held to; a quantized one that is broken is no candidate.

        Raises:
            ExportError: if a stage cannot be lowered in float.
            CheckError: if a float file does not agree with torch.
        """
        for stage in self._subject.specs:
            self._built[stage.name] = [self._lower(form) for form in self._subject.forms(stage.name)]
        checked: dict[str, Checked] = {}
        for stage in self._subject.specs:
            self._quantize(stage)
            checked |= self._hold_to(golden, stage)
        figures = [figure for stage in self._subject.specs for figure in self._measure(stage)]
        built = {candidate.id: candidate for stage in self._built.values() for candidate in stage}
        found = self._search(figures)
        return TargetResult(self._tools, self._machine, built, self._refused, figures, found, checked)

    def _search(self, figures: Sequence[StageFigure]) -> Found:
        settings, baseline = self._subject.recipe.search, self._baseline
        limits = settings.limits
        if baseline is not None and limits.max_latency_share is not None:
            share_ms = limits.max_latency_share * baseline.p50_ms
            limits = replace(
                limits, max_latency_share=None, max_latency_ms=min(share_ms, limits.max_latency_ms or share_ms)
            )
        return Search(
            [figure.among_its_own() for figure in figures] if baseline else figures,
            self._judge,
            settings.max_drop,
            self._subject.budget_subsets,
            settings.max_fusion_passes,
            objectives=settings.objectives,
            caution=settings.caution,
            limits=limits,
            floor=baseline.errors if baseline else {},
            leaves=[stage.name for stage in self._subject.specs if is_leaf(stage)],
        ).run()

    def _note(self, what: str) -> None:
        self._steps += 1
        self._progress(self._steps, 0, f"{self._tools.target.name}: {what}")

    def _runner(self, built: Built) -> Runner:
        return FileRunner(built, self._tools.backend, self._threads)

    def _floats(self) -> dict[str, Runner]:
        return {stage: self._runner(built[0]) for stage, built in self._built.items()}

    @cached_property
    def _torch(self) -> dict[str, Runner]:
        return in_torch(self._subject)

    @cached_property
    def _answers(self) -> Outputs:
        """What these stages answer in torch on the validation set."""
        return self._validation.outputs(self._torch)

    @cached_property
    def _reference(self) -> Outputs:
        """What the unpruned model answers in torch on the validation set."""
        unpruned = self._subject.reference
        if unpruned is None:
            return self._answers
        data = unpruned.splits["validation"]
        return Evaluator(unpruned, data, self._tools.cache, self._note).outputs(in_torch(unpruned))

    def _lower(self, form: TorchStage) -> Built:
        self._note(f"lower {candidate_id(form.spec.name, form.pruning, FLOAT)}")
        return self._tools.lower(form)

    def _quantize(self, stage: StageSpec) -> None:
        """Add the quantized candidates of every form of a stage; those of the stages before it are there already."""
        goals_db = self._subject.recipe.quantize.goals_db
        tried = self.pairs(stage)
        for source, scheme in tuple(tried):
            made = self._add(stage, source, scheme)
            if not goals_db or not made or not scheme.name.startswith("static"):
                continue
            form, prepared = self._prepared(stage, source, scheme)
            feeds, kept_db = self._calibration_of(stage), partial(self._snr_db, stage, against=source)
            for closer in self._tools.closer(form, prepared, scheme, *feeds, goals_db, kept_db):
                if (source, closer) not in tried:
                    tried.append((source, closer))
                    self._add(stage, source, closer)

    def _add(self, stage: StageSpec, source: Built, scheme: Scheme) -> bool:
        """Add a candidate, or the reason why there is none."""
        name = candidate_id(stage.name, source.pruning, scheme)
        self._note(f"quantize {name}")
        built = self.quantized(stage, source, scheme)
        if isinstance(built, Built):
            self._built[stage.name].append(built)
        else:
            self._refused[name] = built
        return isinstance(built, Built)

    def _hold_to(self, golden: GoldenInputs, stage: StageSpec) -> dict[str, Checked]:
        """Check a stage's files on the golden inputs and leave out what is broken."""
        backend = self._tools.backend
        results: dict[str, Checked] = {}
        for built in self._built[stage.name]:
            key = [built.sha256, golden.digest, backend.versions(), fingerprint.of_compiler()]
            make = partial(check, built, backend, golden)
            results[built.id] = found = self._tools.cache.record("golden", key, Checked, make)
            if not found.row.ok and built.scheme == FLOAT:
                raise CheckError(
                    f"{built.target}: the file of '{built.id}' does not agree with torch on the golden inputs",
                    got=f"a largest error of {found.row.max_abs_error:.3g} and {found.row.snr_db} dB",
                    expected=f"{found.row.tolerance}",
                    fix="report it with the model: the converter computes something else",
                )
            if not found.row.ok:
                self._refused[built.id] = f"broken: {found.row.snr_db} dB against torch on the golden inputs"
        self._built[stage.name] = [built for built in self._built[stage.name] if results[built.id].row.ok]
        return results

    def pairs(self, stage: StageSpec) -> list[tuple[Built, Scheme]]:
        """Return what may be tried on a stage: its float files, each with every scheme."""
        recipe = self._subject.recipe
        schemes = wanted_schemes(
            self._tools.quantizer, stage, recipe.search.objective, recipe.schemes, recipe.compile.device
        )
        sources = self._built[stage.name]
        return [*itertools.product(sources, schemes), *aware.pairs(self._subject, stage, sources, schemes)]

    def quantized(self, stage: StageSpec, source: Built, scheme: Scheme) -> Built | str:
        """Apply a scheme to a float file of a stage; return why it could not be applied where that is so."""
        try:
            form, prepared = self._prepared(stage, source, scheme)
        except QuantizeError as error:
            return str(error)
        return self._tools.quantize(form, prepared, scheme, *self._calibration_of(stage))

    def _prepared(self, stage: StageSpec, source: Built, scheme: Scheme) -> tuple[TorchStage, Built]:
        """Return the form of a stage that a scheme applies to, and its float file."""
        form = self._subject.form(stage.name, source.pruning)
        if scheme.aware:
            return aware.trained(self._subject, self._tools, form, self._progress, scheme)
        return form, source

    def _calibration_of(self, stage: StageSpec) -> tuple[FeedSource, object]:
        """Return what starts a pass over a stage's calibration feeds, and what it depends on."""
        floats = self._floats()
        combinations = [floats] if is_leaf(stage) else self._leaf_combinations()
        leaves = [spec.name for spec in self._subject.specs if is_leaf(spec)]
        runs = [[combination[name].identity for name in leaves] for combination in combinations]
        feeds = partial(self._calibration.calibration_feeds, stage, combinations, floats)
        return feeds, [self._subject.splits["calibration"].digest, runs]

    def evaluate(self, stage: StageSpec, candidate: Built) -> None:
        """Run a candidate over the validation set, all other stages in float, and keep what it gives."""
        chain = self._floats() | {stage.name: self._runner(candidate)}
        if is_leaf(stage):
            self._validation.features(stage, chain)
        else:
            self._validation.outputs(chain)

    def _leaf_combinations(self) -> list[dict[str, Runner]]:
        """Return combinations in which every candidate of every leaf stage appears."""
        leaves = {stage.name: self._built[stage.name] for stage in self._subject.specs if is_leaf(stage)}
        count = max((len(built) for built in leaves.values()), default=1)
        floats = self._floats()
        return [
            floats | {name: self._runner(built[number % len(built)]) for name, built in leaves.items()}
            for number in range(count)
        ]

    def _measure(self, stage: StageSpec) -> tuple[StageFigure, ...]:
        """Measure all candidates of a stage against its unpruned float file, all of them together."""
        built, base = self._built[stage.name], self._base(stage)
        split = self._subject.splits["validation"].digest
        files = [b.sha256 for b in (*built, *([base] if base else []))]
        key = [files, self._timer.unit, self._machine, split, fingerprint.of_compiler()]
        make = partial(self._figures, stage, base)
        return kept.timings(self._tools.cache, "figures", key, _Figures, make, self._timer).figures

    def _figures(self, stage: StageSpec, base: Built | None) -> _Figures:
        self._note(f"measure {stage.name}")
        built, feeds = self._built[stage.name], self.timing_feeds(stage.name)
        contenders = [Contender(one, feeds) for one in built]
        if base and self._baseline:
            contenders.insert(0, Contender(base, self._baseline.feeds(stage.name)))
        times = self._timer.stage(stage, contenders, self._tools.backend, self._threads)
        found = []
        for candidate in built:
            time, cost = times[candidate.id], costs.costs(candidate.lowered(), candidate.target, stage)
            found.append(
                StageFigure(
                    stage=stage.name,
                    candidate=candidate.id,
                    scheme=candidate.scheme.id,
                    p50_ms=time.p50.value,
                    p50_ci_ms=(time.p50.low, time.p50.high),
                    speedup=time.speedup.value,
                    speedup_ci95=(time.speedup.low, time.speedup.high),
                    size_bytes=0 if stage.role == "frontend" else candidate.size_bytes,
                    snr_db=self._snr_db(stage, candidate),
                    is_float=candidate is built[0] and base is None,
                    pruning=candidate.form[1],
                    memory_bytes=cost.weight_bytes + cost.activation_bytes,
                    mac=cost.mac,
                    bytes_moved=cost.bytes_moved,
                    pressure=time.pressure,
                )
            )
        return _Figures(figures=tuple(found))

    def _base(self, stage: StageSpec) -> Built | None:
        """Return the unpruned float file of a stage that has other interfaces here; None if it is the same file."""
        if self._baseline is None:
            return None
        result = self._baseline.result
        base = result.built[result.floats[stage.name]]
        return None if base.sha256 == self._built[stage.name][0].sha256 else base

    def timing_feeds(self, stage: str) -> list[Feeds]:
        """Return real feeds of a stage, every modality present, from the validation set."""
        floats = self._floats()
        spec = next(spec for spec in self._subject.specs if spec.name == stage)
        return list(islice(self._validation.calibration_feeds(spec, [floats], floats), _TIMED_FEEDS))

    def _snr_db(self, stage: StageSpec, candidate: Built, against: Built | None = None) -> float:
        """Return the signal-to-noise of a candidate over the validation set against a float file, or else torch."""
        floats = self._floats()  # of all stages before it
        reference = self._torch if against is None else floats | {stage.name: self._runner(against)}
        theirs, ours = (self._given(stage, c) for c in (reference, floats | {stage.name: self._runner(candidate)}))
        ratio = agreement([({"": theirs}, {"": ours})], Tolerance()).snr_db
        return min(max(ratio, -_EXACT_DB), _EXACT_DB)

    def _given(self, stage: StageSpec, chain: Mapping[str, Runner]) -> Array:
        """Return the first output of a stage, or of all if others follow another, over the validation set."""
        if is_leaf(stage):
            return self._validation.features(stage, chain).flat(stage.key(stage.outputs[0].tensor.name))
        return self._validation.outputs(chain)[subset_name(self._subject.subsets[0])]

    def _judge(self, combination: Combination) -> dict[str, SubsetDrop]:
        """Run a fusion pass and return its paired drops against torch on the validation set."""
        by_id = {b.id: b for built in self._built.values() for b in built}
        outputs = self._validation.outputs({s: self._runner(by_id[c]) for s, c in combination.items()})
        return drops(self._subject, "validation", self._reference, outputs)


def drops(subject: Subject, split: str, reference: Outputs, candidate: Outputs) -> dict[str, SubsetDrop]:
    """Return the paired drop of the metric in every subset."""
    metric = Metric(subject.spec.metric)
    found = {
        name: metric.drop(reference[name], candidate[name], targets)
        for name, targets in subset_targets(subject, split).items()
    }
    return {name: SubsetDrop(drop=d.drop, low=d.low, high=d.high) for name, d in found.items()}


def accuracy(subject: Subject, split: str, outputs: Outputs) -> dict[str, float]:
    """Return the metric in every subset."""
    metric = Metric(subject.spec.metric)
    return {name: metric.aggregate(outputs[name], targets) for name, targets in subset_targets(subject, split).items()}


def subset_targets(subject: Subject, split: str) -> dict[str, Array]:
    """Return the targets of the items that have a subset's modalities, by subset."""
    data = subject.splits[split]
    return {subset_name(s): data.targets[data.with_subset(subject.columns(s))] for s in subject.subsets}
