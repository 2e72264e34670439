"""The typed manifest of a bundle: its fields. How `manifest.json` is written and read stands in `codec`."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from edgefuse.bundle.layout import quoted
from edgefuse.bundle.spec import DType, ModelSpec, Record, StageSpec
from edgefuse.errors import BundleError

SCHEMA_MAJOR = 2
SCHEMA_MINOR = 4

# How many entries a list or an object has at most where nothing else counts them: before anything walks through them.
_FEW, _SUBSETS = msgspec.Meta(max_length=1024), msgspec.Meta(max_length=2**16)


def members(target: str) -> tuple[str, ...]:
    """Return the targets that a name joins by `+`; a plain one is its only member."""
    return tuple(target.split("+"))


class Binding(Record, frozen=True, kw_only=True):
    """How a port of a stage is called and typed inside a file.

    Attributes:
        port: the name in the stage's spec.
        tensor: the name in the file (for TFLite, in its signature).
        dtype: the element type in the file.
        shape: -1 where the file takes any size.
    """

    port: str
    tensor: str
    dtype: DType
    shape: tuple[int, ...]


class Tolerance(Record, frozen=True, kw_only=True):
    """The largest difference of a file from torch fp32 on the golden vectors.

    Float files: |error| <= absolute + relative * max|y|. Others: signal-to-noise of at least `min_snr_db`.
    """

    absolute: float = 1e-4
    relative: float = 1e-4
    min_snr_db: float | None = None


class PruningStep(Record, frozen=True, kw_only=True):
    """One step of pruning.

    Attributes:
        method: such as `structured`, `depth` or `magnitude`.
        ratio: the fraction removed, of what the method removes: channels, blocks or weights.
        importance: by what it was chosen; empty where the method leaves no choice.
        options: what else the method was told, by its own names, in order of name.
    """

    method: str
    ratio: float
    importance: str = ""
    options: Annotated[tuple[tuple[str, str | int | float | bool], ...], _FEW] = ()

    @property
    def id(self) -> str:
        """A short name that is safe in file names, such as `structured50`; of `options`, a hash."""
        name = f"{self.method}{round(self.ratio * 100)}"
        return f"{name}.o{hashlib.sha256(msgspec.json.encode(self.options)).hexdigest()[:8]}" if self.options else name


class Pruning(Record, frozen=True, kw_only=True):
    """How a stage was pruned.

    Attributes:
        steps: in the order in which they were taken.
        recovery: by distillation from the unpruned stage `alone`, or then of all stages together (`joint`).
    """

    steps: Annotated[tuple[PruningStep, ...], _FEW]
    recovery: Literal["none", "alone", "joint"] = "alone"

    @property
    def id(self) -> str:
        """A short name that is safe in file names, such as `depth50-structured50`."""
        parts = [step.id for step in self.steps]
        return "-".join([*parts, *({"none": ["raw"], "alone": [], "joint": ["joint"]}[self.recovery])])


class Profile(Record, frozen=True, kw_only=True):
    """The shapes that an engine takes at an input whose shape is not fixed; it is tuned for the `optimum`."""

    port: str
    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


class BuildPlan(Record, frozen=True, kw_only=True):
    """How a device builds an engine from a graph. Types stand in the graph, so the engine is always strongly typed.

    Attributes:
        profiles: one for each input whose shape is not fixed.
        sparse_weights: whether the weights have 2:4 sparsity that the engine may use.
    """

    profiles: Annotated[tuple[Profile, ...], _FEW] = ()
    sparse_weights: bool = False


class Candidate(Record, frozen=True, kw_only=True):
    """One way to run one stage: a file, what runs it, and how to call it.

    Attributes:
        target: that the file was made for; one of the bundle's.
        backend: the runtime that opens the file, as edgefuse names it.
        accelerator: where it runs: `cpu`, `gpu`, or another word for what a backend uses.
        scheme: its precision, by the grammar of `edgefuse.bundle.scheme`.
        exclude: patterns of operator types or node names that the scheme left float.
        plan: where the device builds an engine from the file.
    """

    id: str
    stage: str
    target: str
    backend: str
    accelerator: str = "cpu"
    scheme: str
    exclude: Annotated[tuple[str, ...], _FEW] = ()
    file: str
    sha256: str
    size_bytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    opset: str
    tolerance: Tolerance
    pruning: Pruning | None = None
    plan: BuildPlan | None = None


class Machine(Record, frozen=True, kw_only=True):
    """The machine that a figure was measured on (no host name): architecture, CPU, its features, runtimes, threads."""

    architecture: str
    cpu: str
    cores: int
    features: Annotated[tuple[str, ...], _FEW]
    runtimes: Annotated[dict[str, str], _FEW]
    threads: int


class Figure(Record, frozen=True, kw_only=True):
    """Latency and memory of a rung on one machine. A percentile is None where too few runs were made."""

    machine: Machine
    runs: int
    p50_ms: float
    p90_ms: float | None = None
    p99_ms: float | None = None
    peak_rss_bytes: int | None = None


class OutputFigures(Record, frozen=True, kw_only=True):
    """The metric of an output after the first, as a `Rung` has them of the first."""

    metric: str
    accuracy: Annotated[dict[str, float], _SUBSETS]
    drop_ci95: Annotated[dict[str, tuple[float, float]], _SUBSETS]


class Rung(Record, frozen=True, kw_only=True):
    """An operating point: one candidate per stage, with its price.

    Attributes:
        candidates: stage name to candidate id.
        objective: what it is best at; `fixed` where its candidates were named and nothing was searched.
        accuracy: the first output's metric by subset of modalities, on the test split; none where it was not measured.
        drop_ci95: the 95 % interval of what was lost of it, paired, by subset.
        outputs: the same of the other outputs that a metric judges, by name.
        within_budget: whether it met the budget; None where nothing was measured that could tell.
        cost: counted from the files where no device was measured; it ranks rungs and predicts no time.
    """

    name: str
    objective: Literal["latency", "size", "memory", "accuracy", "float", "fixed"]
    candidates: dict[str, str]
    accuracy: Annotated[dict[str, float], _SUBSETS]
    drop_ci95: Annotated[dict[str, tuple[float, float]], _SUBSETS]
    within_budget: bool | None
    size_bytes: int
    figures: Annotated[tuple[Figure, ...], _FEW] = ()
    cost: float | None = None
    outputs: Annotated[dict[str, OutputFigures], _FEW] = {}  # noqa: RUF012 - msgspec copies empty defaults


class Streamed(Record, frozen=True, kw_only=True):
    """The stages of one step of a modality that streams (decision 120): a reader may do without them.

    Attributes:
        modality: that is taken in chunks.
        encoder: the stage whose feature that of the last step stands for, once a whole window was heard.
        stages: of a step, in an order in which they can run.
        rungs: by rung, stage name to candidate id; another rung does not stream.
    """

    modality: str
    encoder: str
    stages: Annotated[tuple[StageSpec, ...], _FEW]
    rungs: Annotated[dict[str, dict[str, str]], _FEW]


class GoldenTensor(Record, frozen=True, kw_only=True):
    """A tensor of a golden case: little-endian, C order, without a header."""

    port: str
    dtype: DType
    shape: tuple[int, ...]
    file: str


class GoldenCase(Record, frozen=True, kw_only=True):
    """Inputs of one stage, and the outputs of torch fp32: the unpruned stage, or the one pruned as `pruning` says.

    `pruning` is the `Pruning.id` of the candidates that the case is for; empty for the unpruned ones.
    """

    stage: str
    pruning: str = ""
    inputs: tuple[GoldenTensor, ...]
    outputs: tuple[GoldenTensor, ...]


class FileEntry(Record, frozen=True, kw_only=True):
    """A file of the bundle with its hash (hex SHA-256) and size."""

    path: str
    sha256: str
    size_bytes: int


class Provenance(Record, frozen=True, kw_only=True):
    """The origin of the bundle: hashes of weights, data and recipe, versions of the tools."""

    weights_sha256: str
    data_sha256: str
    recipe_sha256: str
    tools: Annotated[dict[str, str], _FEW]


class Manifest(Record, frozen=True, kw_only=True):
    """Everything a reader needs to know about a bundle.

    Attributes:
        schema: [major, minor]; readers refuse a newer major.
        target: what the files were made for; several, joined by `+`, in one whose stages run in different runtimes.
        files: every other file of the bundle, in order of path.
        default_rung: what `load` opens unless told otherwise.
        streamed: modalities that can be encoded chunk by chunk; several of one, if its rungs remember differently.
            It is left out where there are none, so that readers of 2.3 read what they know.
    """

    schema: tuple[int, int] = (SCHEMA_MAJOR, SCHEMA_MINOR)
    target: str
    model: ModelSpec
    stages: tuple[StageSpec, ...]
    candidates: tuple[Candidate, ...]
    rungs: tuple[Rung, ...]
    default_rung: str
    golden: tuple[GoldenCase, ...]
    files: tuple[FileEntry, ...]
    provenance: Provenance
    streamed: Annotated[tuple[Streamed, ...], _FEW] | msgspec.UnsetType = msgspec.UNSET

    @property
    def all_stages(self) -> tuple[StageSpec, ...]:
        """Every stage that has candidates: those of a prediction, and those of steps, each once."""
        steps = (stage for one in self.streamed or () for stage in one.stages)
        return tuple({stage.name: stage for stage in (*self.stages, *steps)}.values())

    @property
    def backends(self) -> tuple[str, ...]:
        """The runtimes that the files need, by name, sorted."""
        return tuple(sorted({candidate.backend for candidate in self.candidates}))

    @property
    def backend(self) -> str:
        """The runtimes that the files need, joined by `+`."""
        return "+".join(self.backends)

    def rung(self, name: str | None = None) -> Rung:
        """Return the rung of that name (the default one for None), or raise `BundleError`."""
        wanted = self.default_rung if name is None else name
        for rung in self.rungs:
            if rung.name == wanted:
                return rung
        raise BundleError(
            "this bundle has no such rung", got=quoted(str(wanted)), expected=" or ".join(r.name for r in self.rungs)
        )

    def candidate(self, candidate_id: str) -> Candidate:
        """Return the candidate of that id, or raise `BundleError`."""
        for candidate in self.candidates:
            if candidate.id == candidate_id:
                return candidate
        raise BundleError("this bundle has no such candidate", got=quoted(candidate_id))
