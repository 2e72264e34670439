"""A tiny fusion model as real ONNX files and as a bundle, made without torch: for all tests and attacks.

Three modalities, all optional: `image` (uint8 [1, 8, 8, 1]), `text` (ids int32 [1, 6] with a length) and `motion`
(float32 [1, up to 5, 3] with a length). Each stage is a few operators with seeded weights; the image encoder comes
in float and with int8 weights, so the bundle has the rungs `float` and `small`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding, Candidate, GoldenCase, GoldenTensor, Manifest, Provenance, Rung, Tolerance
from edgefuse.bundle.spec import (
    Bounded,
    ClassOutput,
    ModelSpec,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    image,
    subset_name,
    tensor,
    text,
)

LABELS = ("stop", "go", "wait")
VOCABULARY = ("[PAD]", "[UNK]", "stop", "go", "wait", "please", "now", "not")
FEATURE = TensorSpec(name="feature", shape=(1, 8))

# The bodies of the graphs, as ONNX text; inputs, outputs and weights are added by `onnx_file`.
GRAPHS = {
    "image_frontend": """
        grey = Cast<to = 1>(pixels)
        small = Div(grey, full_scale)
        normalised = Transpose<perm = [0, 3, 1, 2]>(small)""",
    "image_encoder": """
        flat = Flatten(normalised)
        hidden = Gemm(flat, weight, bias)
        feature = Tanh(hidden)""",
    "text_encoder": """
        embedded = Gather(table, ids)
        valid = Less(positions, length)
        mask = Unsqueeze(valid, last)
        kept = Where(mask, embedded, zero)
        summed = ReduceSum<keepdims = 0>(kept, steps)
        count = Cast<to = 1>(length)
        feature = Div(summed, count)""",
    "motion_encoder": """
        hidden = MatMul(values, weight)
        shape = Shape<start = 1, end = 2>(values)
        size = Squeeze(shape)
        size32 = Cast<to = 6>(size)
        positions = Range(first, size32, one)
        valid = Less(positions, length)
        mask = Unsqueeze(valid, axes)
        kept = Where(mask, hidden, zero)
        summed = ReduceSum<keepdims = 0>(kept, steps)
        feature = Tanh(summed)""",
    "fusion": """
        here = Greater(present, zero)
        mask = Unsqueeze(here, last)
        a = Unsqueeze(image, steps)
        b = Unsqueeze(text, steps)
        c = Unsqueeze(motion, steps)
        stacked = Concat<axis = 1>(a, b, c)
        kept = Where(mask, stacked, zero)
        flat = Flatten(kept)
        logits = Gemm(flat, weight, bias)""",
}
QUANTIZED_IMAGE_ENCODER = """
        dequantized = DequantizeLinear(weight, scale)
        flat = Flatten(normalised)
        hidden = Gemm(flat, dequantized, bias)
        feature = Tanh(hidden)"""


def _weights(stage: str) -> dict[str, npt.NDArray[Any]]:
    """Return the constants of a stage's graph; the same ones in every run."""
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    zero, steps, last = np.float32(0), np.array([1]), np.array([-1])
    return {
        "image_frontend": {"full_scale": np.array(255, np.float32)},
        "image_encoder": {"weight": normal(64, 8), "bias": normal(8)},
        "text_encoder": {
            "table": normal(len(VOCABULARY), 8),
            "positions": np.arange(6, dtype=np.int32)[None],
            "last": last,
            "steps": steps,
            "zero": np.array(zero),
        },
        "motion_encoder": {
            "weight": normal(3, 8),
            "first": np.array(0, np.int32),
            "one": np.array(1, np.int32),
            "axes": np.array([0, 2]),
            "steps": steps,
            "zero": np.array(zero),
        },
        "fusion": {
            "weight": normal(24, len(LABELS)),
            "bias": normal(len(LABELS)),
            "last": last,
            "steps": steps,
            "zero": np.array(zero),
        },
    }[stage]


def _onnx_file(stage: StageSpec, body: str, constants: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return an ONNX model of a stage from the text of its body."""
    import onnx
    import onnx.numpy_helper
    import onnx.parser

    inputs = [_declaration(port.tensor) for port in stage.inputs]
    outputs = [_declaration(port.tensor) for port in stage.outputs]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"{stage.name} ({', '.join(inputs)}) => ({', '.join(outputs)}) {{{body}\n}}"
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _declaration(tensor_spec: TensorSpec) -> str:
    kind = {"float32": "float", "uint8": "uint8", "int32": "int32"}[tensor_spec.dtype]
    dims = ",".join(str(dim) if isinstance(dim, int) else "steps" for dim in tensor_spec.shape)
    return f"{kind}[{dims}] {tensor_spec.name}"


def _bindings(ports: tuple[StageInput, ...] | tuple[StageOutput, ...]) -> tuple[Binding, ...]:
    return tuple(
        Binding(
            port=port.tensor.name,
            tensor=port.tensor.name,
            dtype=port.tensor.dtype,
            shape=tuple(dim if isinstance(dim, int) else -1 for dim in port.tensor.shape),
        )
        for port in ports
    )


@cache
def spec() -> ModelSpec:
    """The modalities and the output of the tiny model."""
    return ModelSpec(
        name="tiny",
        metric="accuracy",
        modalities=(
            image("image", height=8, width=8, channels=1, optional=True),
            text("text", tokenizer="tokenizer.json", max_length=6, optional=True),
            tensor("motion", shape=(1, Bounded(max=5), 3), length=True, optional=True),
        ),
        outputs=(ClassOutput(labels=LABELS),),
    )


@cache
def stages() -> tuple[StageSpec, ...]:
    """The wiring: image frontend, three encoders, fusion."""

    def length(owner: str) -> StageInput:
        source = Source(kind="length", owner=owner)
        return StageInput(tensor=TensorSpec(name="length", dtype="int32", shape=(1,)), source=source)

    def raw(owner: str) -> StageInput:
        delivered = spec().modality(owner).tensors[0]
        return StageInput(tensor=delivered, source=Source(kind="modality", owner=owner, tensor=delivered.name))

    def feature(name: str) -> StageInput:
        source = Source(kind="stage", owner=f"{name}_encoder", tensor="feature")
        return StageInput(tensor=msgspec.structs.replace(FEATURE, name=name), source=source)

    normalised = TensorSpec(name="normalised", shape=(1, 1, 8, 8))
    frontend_output = Source(kind="stage", owner="image_frontend", tensor="normalised")
    present = StageInput(tensor=TensorSpec(name="present", shape=(1, 3)), source=Source(kind="present"))
    logits = TensorSpec(name="logits", shape=(1, len(LABELS)))
    encoded = (StageOutput(tensor=FEATURE),)
    return (
        StageSpec(
            name="image_frontend",
            role="frontend",
            modality="image",
            inputs=(raw("image"),),
            outputs=(StageOutput(tensor=normalised),),
        ),
        StageSpec(
            name="image_encoder",
            role="encoder",
            modality="image",
            inputs=(StageInput(tensor=normalised, source=frontend_output),),
            outputs=encoded,
        ),
        StageSpec(
            name="text_encoder",
            role="encoder",
            modality="text",
            inputs=(raw("text"), length("text")),
            outputs=encoded,
        ),
        StageSpec(
            name="motion_encoder",
            role="encoder",
            modality="motion",
            inputs=(raw("motion"), length("motion")),
            outputs=encoded,
        ),
        StageSpec(
            name="fusion",
            role="fusion",
            inputs=(feature("image"), feature("text"), feature("motion"), present),
            outputs=(StageOutput(tensor=logits, kind="result"),),
        ),
    )


@cache
def files() -> Mapping[str, bytes]:
    """The ONNX files by candidate id: `<stage>.float` for all, and `image_encoder.dynamic_wi8_af32`."""
    made = {f"{stage.name}.float": _onnx_file(stage, GRAPHS[stage.name], _weights(stage.name)) for stage in stages()}
    encoder = next(stage for stage in stages() if stage.name == "image_encoder")
    constants = _weights("image_encoder")
    scale = np.abs(constants["weight"]).max() / np.float32(127)
    constants["weight"] = np.rint(constants["weight"] / scale).astype(np.int8)
    constants["scale"] = np.array(scale, np.float32)
    made["image_encoder.dynamic_wi8_af32"] = _onnx_file(encoder, QUANTIZED_IMAGE_ENCODER, constants)
    return MappingProxyType(made)


@cache
def tokenizer() -> bytes:
    """A word-level `tokenizer.json` over a handful of words."""
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    parts = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    return json.dumps(parts | dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))).encode()


@cache
def golden() -> tuple[tuple[GoldenCase, ...], Mapping[str, bytes]]:
    """One golden case per stage, computed with bare ONNX Runtime on the float files, and the cases' files."""
    from edgefuse.runtime.backends.onnx.api import onnxruntime

    rng = np.random.default_rng(11)
    pool: dict[str, npt.NDArray[Any]] = {
        "image.pixels": rng.integers(0, 256, (1, 8, 8, 1), dtype=np.uint8),
        "text.ids": np.array([[3, 5, 6, 0, 0, 0]], np.int32),
        "text.length": np.array([3], np.int32),
        "motion.values": rng.normal(size=(1, 4, 3)).astype(np.float32),
        "motion.length": np.array([4], np.int32),
        "present": np.ones((1, 3), np.float32),
    }
    cases: list[GoldenCase] = []
    kept: dict[str, bytes] = {}

    def keep(stage: str, port: str, value: npt.NDArray[Any]) -> GoldenTensor:
        path = f"golden/{stage}/{port}.bin"
        kept[path] = value.tobytes()
        return GoldenTensor(port=port, dtype=value.dtype.name, shape=value.shape, file=path)  # type: ignore[arg-type]

    for stage in stages():
        feeds = {port.tensor.name: pool[port.source.key] for port in stage.inputs}
        results = onnxruntime.InferenceSession(files()[f"{stage.name}.float"]).run(None, feeds)
        for port, value in zip(stage.outputs, results, strict=True):
            pool[f"/{stage.name}.{port.tensor.name}"] = value
        inputs = tuple(keep(stage.name, port, value) for port, value in feeds.items())
        answers = zip(stage.outputs, results, strict=True)
        outputs = tuple(keep(stage.name, port.tensor.name, value) for port, value in answers)
        cases.append(GoldenCase(stage=stage.name, inputs=inputs, outputs=outputs))
    return tuple(cases), MappingProxyType(kept)


@cache
def candidates() -> tuple[Candidate, ...]:
    """A candidate per file, in the order of the ids."""
    by_name = {stage.name: stage for stage in stages()}

    def candidate(candidate_id: str, data: bytes) -> Candidate:
        name, scheme = candidate_id.split(".")
        return Candidate(
            id=candidate_id,
            stage=name,
            target="onnx",
            backend="onnx",
            scheme=scheme,
            file=f"stages/{candidate_id}.onnx",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            inputs=_bindings(by_name[name].inputs),
            outputs=_bindings(by_name[name].outputs),
            opset="20",
            tolerance=Tolerance() if scheme == "float" else Tolerance(min_snr_db=30.0),
        )

    return tuple(candidate(candidate_id, data) for candidate_id, data in sorted(files().items()))


@cache
def manifest() -> Manifest:
    """A manifest with the rungs `float` (the default) and `small`; `files` is empty until a bundle is written."""
    accuracy = {subset_name(subset): 0.5 for subset in spec().subsets()}
    drop = dict.fromkeys(accuracy, (0.0, 0.01))
    sizes = {candidate.id: candidate.size_bytes for candidate in candidates()}
    floats = {stage.name: f"{stage.name}.float" for stage in stages()}
    small = floats | {"image_encoder": "image_encoder.dynamic_wi8_af32"}

    def rung(name: str, objective: str, choice: dict[str, str]) -> Rung:
        return Rung(
            name=name,
            objective=objective,  # type: ignore[arg-type]
            candidates=choice,
            accuracy=accuracy,
            drop_ci95=drop,
            within_budget=True,
            size_bytes=sum(sizes[candidate] for candidate in choice.values()),
        )

    return Manifest(
        target="onnx",
        model=spec(),
        stages=stages(),
        candidates=candidates(),
        rungs=(rung("float", "float", floats), rung("small", "size", small)),
        default_rung="float",
        golden=golden()[0],
        files=(),
        provenance=Provenance(weights_sha256="0" * 64, data_sha256="1" * 64, recipe_sha256="2" * 64, tools={}),
    )


@cache
def contents() -> Mapping[str, bytes]:
    """The files of the bundle by path, without the manifest."""
    opened = {candidate.file: files()[candidate.id] for candidate in candidates()}
    return MappingProxyType({**opened, **golden()[1], "assets/tokenizer.json": tokenizer()})
