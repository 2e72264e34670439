"""The typed manifest of a bundle: its fields, and how `manifest.json` is encoded and decoded.

The encoding is canonical (sorted keys, no time, host, user or path), so the same content gives the same bytes.

Decoding is strict. msgspec refuses unknown fields, wrong types, NaN, numbers that overflow and trailing text; it takes
the last of two equal keys, as JSON allows. Another reader may take the first, so equal keys are refused here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from edgefuse import typed_json
from edgefuse.bundle.layout import MANIFEST, quoted, twice
from edgefuse.bundle.spec import DType, ModelSpec, Record, StageSpec
from edgefuse.errors import BundleError, shown

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 2

# How many entries a list or an object has at most where nothing else counts them: before anything walks through them.
_FEW, _SUBSETS = msgspec.Meta(max_length=1024), msgspec.Meta(max_length=2**16)

SchemeName: TypeAlias = Literal["float", "fp16", "dynamic_wi4_af32", "dynamic_wi8_af32", "static_wi8_ai8"]
Calibrator: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]


class Scheme(Record, frozen=True, kw_only=True):
    """A numeric precision, in one grammar for all targets.

    Attributes:
        name: `float`, `fp16` (weights; for `tensorrt` the arithmetic as well), `dynamic_wi8_af32` (int8 weights,
            activations quantized per run), `dynamic_wi4_af32` (the same with int4 weights) or `static_wi8_ai8` (int8
            weights and activations, ranges from calibration).
        activation: sign of static activations: `u8` or `s8`; empty where it does not apply.
        granularity: of the weights.
        calibrator: how static ranges are chosen.
        balanced: whether ranges were evened out between layers before (SmoothQuant, cross-layer equalisation).
        corrected: whether biases were moved by the mean error that quantization made.
        fitted: whether weights were rounded by the inputs that they are multiplied with, not each to the nearest step.
        aware: whether biases and norms were trained on through the rounding before, as bundles say that were compiled
            when that could be asked for.
        table_bits: of embedding tables in a scheme with int8 weights; tables lose less by four bits than products do.
        exclude: patterns of operator types or node names that stay float.
        rest: the type of the values that are not quantized: `float` (float32) or `fp16`.
    """

    name: SchemeName
    activation: Literal["", "u8", "s8"] = ""
    granularity: Literal["channel", "tensor"] = "channel"
    calibrator: Calibrator = "minmax"
    balanced: bool = False
    corrected: bool = False
    fitted: bool = False
    aware: bool = False
    table_bits: Literal[4, 8] = 8
    exclude: Annotated[tuple[str, ...], _FEW] = ()
    rest: Literal["float", "fp16"] = "float"

    @property
    def id(self) -> str:
        """A short unique name that is safe in file names, such as `static_wi8_ai8.u8`."""
        parts: list[str] = [self.name]
        if self.activation:
            parts.append(self.activation)
        if self.granularity != "channel":
            parts.append(self.granularity)
        if self.calibrator != "minmax":
            parts.append(self.calibrator)
        parts += ["balanced"] * self.balanced + ["corrected"] * self.corrected
        parts += ["fitted"] * self.fitted + ["aware"] * self.aware + ["table4"] * (self.table_bits == 4)
        if self.rest != "float":
            parts.append(self.rest)
        if self.exclude:
            parts.append("x" + hashlib.sha256("\n".join(self.exclude).encode()).hexdigest()[:8])
        return ".".join(parts)


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
    """

    method: str
    ratio: float
    importance: str = ""


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
        parts = [f"{step.method}{round(step.ratio * 100)}" for step in self.steps]
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
    """One way to run one stage: a file and how to call it; `plan` where the device builds an engine from the file."""

    id: str
    stage: str
    target: str
    scheme: Scheme
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


class Rung(Record, frozen=True, kw_only=True):
    """An operating point: one candidate per stage, with its price.

    Attributes:
        candidates: stage name to candidate id.
        accuracy: metric by subset of modalities, on the test split.
        drop_ci95: the 95 % interval of the paired difference reference - rung, by subset (fractions).
        cost: counted from the files where no device was measured; it ranks rungs and predicts no time.
    """

    name: str
    objective: Literal["latency", "size", "memory", "accuracy", "float"]
    candidates: dict[str, str]
    accuracy: Annotated[dict[str, float], _SUBSETS]
    drop_ci95: Annotated[dict[str, tuple[float, float]], _SUBSETS]
    within_budget: bool
    size_bytes: int
    figures: Annotated[tuple[Figure, ...], _FEW] = ()
    cost: float | None = None


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
        files: every other file of the bundle, in order of path.
        default_rung: what `load` opens unless told otherwise.
    """

    schema: tuple[int, int] = (SCHEMA_MAJOR, SCHEMA_MINOR)
    target: str
    backend: str
    model: ModelSpec
    stages: tuple[StageSpec, ...]
    candidates: tuple[Candidate, ...]
    rungs: tuple[Rung, ...]
    default_rung: str
    golden: tuple[GoldenCase, ...]
    files: tuple[FileEntry, ...]
    provenance: Provenance

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


def encode(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest: sorted keys, two-space indent, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


class _Version(msgspec.Struct):
    """The one field that every version of the schema has."""

    schema: tuple[int, int]


def decode(data: bytes) -> Manifest:
    """Return the manifest that the JSON text encodes; what it says is checked by `validation.check`.

    Raises:
        BundleError: the text is not strict JSON in UTF-8, or not a manifest of a version that this reader knows.
    """
    try:
        text = data.decode("utf-8")
        minor = _check_version(_decode(data, _Version, fix=None).schema)
        manifest = _decode(data, Manifest, fix=_UPDATE if minor > SCHEMA_MINOR else None)
        json.loads(text, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST} is not UTF-8", got=f"byte {error.start}") from error
    except RecursionError as error:
        raise BundleError(f"{MANIFEST} is nested too deeply") from error
    return manifest


_UPDATE = "update edgefuse here, or compile the bundle with the version that is installed here"
_Decoded = TypeVar("_Decoded")


def _decode(data: bytes, kind: type[_Decoded], *, fix: str | None) -> _Decoded:
    try:
        return typed_json.decode(data, kind)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{MANIFEST} is not a valid manifest", got=quoted(str(error)), fix=fix) from error


def _check_version(version: tuple[int, int]) -> int:
    """Return the minor version, having refused another major."""
    if version[0] != SCHEMA_MAJOR:
        raise BundleError(
            f"{MANIFEST} is of a schema that this version of edgefuse cannot read",
            got=f"version {shown(version[0], 20)}.{shown(version[1], 20)}",
            expected=f"{SCHEMA_MAJOR}.x",
            fix=_UPDATE,
        )
    return version[1]


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object with two equal keys. The value is not needed: msgspec has decoded it."""
    if len(dict(pairs)) != len(pairs):
        key = quoted(twice(key for key, _ in pairs) or "")
        raise BundleError(f"{MANIFEST} has the key {key} twice in one object")
