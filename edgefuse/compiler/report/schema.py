"""The fields of `report.json` as types: the compiler fills it in, `html` shows it, `encoding` writes and reads it.

Ratios are "how many times better": a speed-up of 2 takes half the time, a size ratio of 3 takes a third of the bytes.
Accuracies, drops and budgets are fractions where the metric is one; a drop is reference minus rung, so positive means
lost. Subsets of modalities are spelled `image+audio`. `p50` and `float_p50` are in the report's `unit`: `ms`, or `cost`
where no device was measured and figures are counted from the files.
"""

from __future__ import annotations

import msgspec

from edgefuse.compiler.candidates.golden import GoldenRow
from edgefuse.compiler.recipe.gpu import GpuReference
from edgefuse.compiler.report.judged import OutputReference, OutputRung, SaidReport
from edgefuse.compiler.report.part import Gain, Interval, Part

SCHEMA = 1


class Reference(Part, frozen=True, kw_only=True):
    """The full-precision model in its own framework.

    `metric` judges the first output; `accuracy` is what it comes to by subset, over `items` test items; of an error,
    `lower_is_better`. `outputs` are the other outputs that a metric judges, by name. `stages_ms` is the p50 of each
    stage alone, in eager mode. It was not timed where the rungs were not.
    """

    runtime: str
    threads: int
    p50_ms: float | None
    size_bytes: int
    metric: str
    accuracy: dict[str, float]
    items: int
    stages_ms: dict[str, float] = {}
    lower_is_better: bool = False
    outputs: dict[str, OutputReference] = {}

    def lost(self, subset: str, after: float) -> float:
        """Return what is lost of the metric in a subset, positive if worse, where a rung comes to `after`."""
        before = self.accuracy[subset]
        return after - before if self.lower_is_better else before - after


class StageChoice(Part, frozen=True, kw_only=True):
    """The candidate of a rung for one stage.

    `pruned` is the fraction removed (of what the methods remove), or whether any was; `pruning` is the name of how.
    """

    scheme: str
    pruned: bool | float | None = None
    pruning: str = ""


class RungReport(Part, frozen=True, kw_only=True):
    """A rung as measured.

    `speedup` is over the reference, `speedup_over_float` over the unquantized files of the same runtime.

    There is no `speedup` where the reference ran on another machine than the rung. `outputs` are the figures of the
    outputs after the first that a metric judges, by name. `other_outputs` has those that none does, as there are no
    targets: the share of test items with another class than torch's, or the error as a share of torch's values, in the
    worst subset. `said` is of models that make tokens.
    """

    name: str
    objective: str
    stages: dict[str, StageChoice]
    accuracy: dict[str, float]
    drop_ci95: dict[str, Interval]
    p50: float = msgspec.field(name="p50_ms")
    speedup: Gain | None
    speedup_over_float: Gain
    size_bytes: int
    size_ratio: float
    peak_rss_bytes: int | None = None
    other_outputs: dict[str, float] = {}
    outputs: dict[str, OutputRung] = {}
    said: SaidReport | None = None


class Constraint(Part, frozen=True, kw_only=True):
    """A limit of the recipe and the value of a rung, both in `unit`; `excess` is by how much it was missed, or 0."""

    rung: str
    what: str
    limit: float
    value: float
    unit: str
    excess: float = 0.0


class BundleReport(Part, frozen=True, kw_only=True):
    """One target's bundle; sizes of floats and rungs are those of stage files, frontends apart."""

    target: str
    path: str
    size_bytes: int
    within_budget: bool
    float_p50: float = msgspec.field(name="float_p50_ms")
    float_size_bytes: int
    rungs: tuple[RungReport, ...]
    constraints: tuple[Constraint, ...] = ()


class JudgedReport(Part, frozen=True, kw_only=True):
    """A combination of candidates that got a fusion pass over the validation set.

    `stages` are the schemes, `candidates` the candidates' names, both by stage. `drop` is of the first output, by
    subset; `other_drops` are those of the others that a metric judges, as `depth: image+audio`.
    """

    target: str
    stages: dict[str, str]
    p50: float = msgspec.field(name="p50_ms")
    size_bytes: int
    drop: dict[str, float]
    within_budget: bool
    candidates: dict[str, str] = {}
    other_drops: dict[str, float] = {}


class FrontPoint(Part, frozen=True, kw_only=True):
    """A judged combination that no other dominates in latency, size and worst drop; `rungs` run it.

    Latency, size and memory are sums over the stages; the worst drop of the first output is in `subset`, on validation.
    """

    target: str
    candidates: dict[str, str]
    p50: float = msgspec.field(name="p50_ms")
    size_bytes: int
    drop: float
    subset: str
    within_budget: bool
    memory_bytes: int = 0
    rungs: tuple[str, ...] = ()


class SearchReport(Part, frozen=True, kw_only=True):
    """How much work the search did, over all targets.

    An encoder pass is a candidate of an encoder run once over the validation set, a fusion pass a combination judged
    over kept features; `cap` is what the recipe allows of the latter.
    """

    candidates: int
    fusion_passes: int
    seconds: float
    judged: tuple[JudgedReport, ...] = ()
    encoder_passes: int | None = None
    cap: int | None = None
    front: tuple[FrontPoint, ...] = ()


class CandidateReport(Part, frozen=True, kw_only=True):
    """A candidate of one stage, measured alone; `speedup` is over the same stage in float, unpruned.

    `pruning` and `pruned` are as in a `StageChoice`; `recovery` says how it recovered: `none`, `alone` or `joint`.
    """

    target: str
    stage: str
    candidate: str
    scheme: str
    p50: float | None = msgspec.field(default=None, name="p50_ms")
    float_p50: float | None = msgspec.field(default=None, name="float_p50_ms")
    speedup: Gain | None = None
    size_bytes: int | None = None
    float_size_bytes: int | None = None
    snr_db: float | None = None
    chosen_by: tuple[str, ...] = ()
    excluded: str | None = None
    pruning: str = ""
    pruned: float | None = None
    recovery: str = ""
    mac: int | None = None
    bytes_moved: int | None = None


class StageCosts(Part, frozen=True, kw_only=True):
    """The summed costs of some stages in one run; `activation_bytes` is the largest (an estimate, see `method`)."""

    p50: float = msgspec.field(name="p50_ms")
    size_bytes: int
    mac: int
    bytes_moved: int
    activation_bytes: int


class Change(Part, frozen=True, kw_only=True):
    """A figure before compression (the reference) and after."""

    before: float
    after: float


class ModalityReport(Part, frozen=True, kw_only=True):
    """The costs of a modality on one target, before (float) and after (the default rung), and its worth.

    Attributes:
        modality: empty for the stages that all modalities share.
        sensitivity: the worst drop on validation when its stages alone are compressed, as in `compressed`: the
            candidates of the rung if that was judged, else the fastest that were.
        together: the metric with all inputs.
        without: with all inputs but this one; None if it may not be absent.
        alone: with this input only.
        uncounted: operators that MAC and bytes leave out.
    """

    target: str
    modality: str
    stages: tuple[str, ...]
    before: StageCosts
    after: StageCosts
    sensitivity: float | None = None
    compressed: dict[str, str] = {}
    together: Change | None = None
    without: Change | None = None
    alone: Change | None = None
    uncounted: tuple[str, ...] = ()


class FloatLayers(Part, frozen=True, kw_only=True):
    """Operators that stayed float in a stage of the default rung for one reason: their kinds, number and MAC."""

    target: str
    stage: str
    candidate: str
    operator: str
    count: int
    mac: int
    reason: str


class RecoveryPoint(Part, frozen=True, kw_only=True):
    """The state of a recovery after an epoch (0: as pruned): mean loss, and mean accuracy over all subsets.

    Of several outputs with metrics, `accuracy` is what is kept of all of them: 1 where nothing is lost.
    """

    epoch: int
    loss: float
    accuracy: float


class RecoveryReport(Part, frozen=True, kw_only=True):
    """How pruned stages came back by distillation; several stages if they were trained together."""

    stages: tuple[str, ...]
    pruning: str
    points: tuple[RecoveryPoint, ...]


class PruningReport(Part, frozen=True, kw_only=True):
    """What a stage did not take of a pruning that the recipe asks for.

    Attributes:
        refused: why the stage is not pruned so at all; empty if it is.
        kept: what stays as it is inside of the pruned stage, each with its reason.
    """

    stage: str
    pruning: str
    refused: str = ""
    kept: tuple[str, ...] = ()


class TimingReport(Part, frozen=True, kw_only=True):
    """One interleaved run, and the load of the machine meanwhile; unknown values are None.

    Attributes:
        what: was timed: `rungs` (with the reference), `stages in torch`, or a target and a stage.
        busy: why its figures, which are marked, cannot be trusted, each in words; empty on a quiet machine.
        waited: of the time in which the compiler wanted a processor, the share that it waited for one, without the
            worst fifth of the run.
        stolen: of the time in which a virtual machine wanted to run, the share that its host kept from it.
        stalled: of the time, the share in which any task of the system waited for a processor.
        others: tasks beside the compiler's that ran or waited for a processor, the median.
        interruptions_per_s: how often a processor was taken from it.
        drift: the largest change of a contender's calls from the first third of the run to the last, a share.
    """

    what: str
    busy: tuple[str, ...] = ()
    waited: float | None = None
    stolen: float | None = None
    stalled: float | None = None
    others: float | None = None
    interruptions_per_s: float | None = None
    drift: float | None = None


class ModelReport(Part, frozen=True, kw_only=True):
    """The model that was compiled.

    Attributes:
        single_modality_share: of its multiply-accumulates, what sees one modality; None if that was not counted.
        notes: how it was taken apart, and why not into more stages, in sentences.
    """

    name: str
    description: str = ""
    stages: tuple[str, ...] = ()
    parameters: int | None = None
    single_modality_share: float | None = None
    notes: tuple[str, ...] = ()


class MachineReport(Part, frozen=True, kw_only=True):
    """The machine that figures were measured on."""

    cpu: str
    cores: int
    architecture: str = ""
    features: tuple[str, ...] = ()
    runtimes: dict[str, str] = {}
    threads: int | None = None


class BudgetReport(Part, frozen=True, kw_only=True):
    """The budget of the recipe, in the metric's own unit.

    Attributes:
        max_drop: what may be lost in each subset; where that differs, the least.
        share: of what the reference reaches, where the recipe asks for a share.
        limits: what may be lost by subset, on the test items, where it differs.
        search_limits: the same on the validation items, for the search.
        subsets: that the budget binds, of the first output.
    """

    max_drop: float
    objective: str = "latency"
    share: float | None = None
    limits: dict[str, float] = {}
    search_limits: dict[str, float] = {}
    subsets: tuple[str, ...] = ()

    def limit(self, subset: str) -> float:
        """Return what may be lost in a subset."""
        return self.limits.get(subset, self.max_drop)


class Report(Part, frozen=True, kw_only=True):
    """The whole report; fields with a default may be missing.

    Attributes:
        titles: how targets are spelled by those who made them, by target.
        failed: why a target has no bundle.
        gpu: the model in full precision on a GPU, if the recipe names a record.
    """

    schema: int = SCHEMA
    reference: Reference
    bundles: tuple[BundleReport, ...]
    search: SearchReport | None = None
    golden: tuple[GoldenRow, ...] = ()
    model: ModelReport | None = None
    machine: MachineReport | None = None
    budget: BudgetReport | None = None
    stages: tuple[CandidateReport, ...] = ()
    method: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    modalities: tuple[ModalityReport, ...] = ()
    float_layers: tuple[FloatLayers, ...] = ()
    recoveries: tuple[RecoveryReport, ...] = ()
    prunings: tuple[PruningReport, ...] = ()
    timings: tuple[TimingReport, ...] = ()
    failed: dict[str, str] = {}
    titles: dict[str, str] = {}
    unit: str = "ms"
    gpu: GpuReference | None = None
