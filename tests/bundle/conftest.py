"""A small bundle of two modalities, two rungs, a shared file and golden vectors."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from edgefuse.bundle.manifest import (
    Binding,
    Candidate,
    Figure,
    GoldenCase,
    GoldenTensor,
    Machine,
    Manifest,
    Provenance,
    Rung,
    Tolerance,
)
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import (
    ClassOutput,
    ModelSpec,
    Source,
    StageInput,
    StageOutput,
    StageSpec,
    TensorSpec,
    image,
    text,
)
from edgefuse.bundle.writer import write_bundle

Contents: TypeAlias = Mapping[str, bytes]
Repack: TypeAlias = Callable[..., Path]

FILES = {
    "stages/image_encoder.float.bin": b"image encoder, float",
    "stages/text_encoder.float.bin": b"text encoder, float",
    "stages/fusion.float.bin": b"fusion, float",
    "stages/fusion.fp16.bin": b"fusion, fp16",
    "assets/tokenizer.json": b'{"model": {"type": "WordLevel", "vocab": {"zero": 0, "one": 1}, "unk_token": "zero"}}',
    "golden/000.bin": bytes(range(4)),
    "golden/001.bin": bytes(16),
    "report.json": b'{"schema": 1}',
}


def _stages() -> tuple[StageSpec, ...]:
    feature = TensorSpec(name="feature", shape=(1, 4))
    encoders = (
        StageSpec(
            name="image_encoder",
            role="encoder",
            inputs=(
                StageInput(
                    tensor=TensorSpec(name="pixels", dtype="uint8", shape=(1, 2, 2, 1)),
                    source=Source(kind="modality", owner="image", tensor="pixels"),
                ),
            ),
            outputs=(StageOutput(tensor=feature),),
            modality="image",
        ),
        StageSpec(
            name="text_encoder",
            role="encoder",
            inputs=(
                StageInput(
                    tensor=TensorSpec(name="ids", dtype="int32", shape=(1, 8)),
                    source=Source(kind="modality", owner="text", tensor="ids"),
                ),
                StageInput(
                    tensor=TensorSpec(name="length", dtype="int32", shape=(1,)),
                    source=Source(kind="length", owner="text"),
                ),
            ),
            outputs=(StageOutput(tensor=feature),),
            modality="text",
        ),
    )
    features = [
        StageInput(
            tensor=TensorSpec(name=name, shape=(1, 4)),
            source=Source(kind="stage", owner=f"{name}_encoder", tensor="feature"),
        )
        for name in ("image", "text")
    ]
    present = StageInput(tensor=TensorSpec(name="present", shape=(1, 2)), source=Source(kind="present"))
    logits = StageOutput(tensor=TensorSpec(name="logits", shape=(1, 3)), kind="result")
    return (*encoders, StageSpec(name="fusion", role="fusion", inputs=(*features, present), outputs=(logits,)))


def _candidate(stage: StageSpec, scheme: Scheme, data: bytes) -> Candidate:
    def bound(tensor: TensorSpec) -> Binding:
        return Binding(port=tensor.name, tensor=f"{tensor.name}:0", dtype=tensor.dtype, shape=tensor.max_shape)

    identifier = f"{stage.name}.{scheme.id}"
    return Candidate(
        id=identifier,
        stage=stage.name,
        target="nothing",
        backend="null",
        scheme=scheme.id,
        file=f"stages/{identifier}.bin",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        inputs=tuple(bound(port.tensor) for port in stage.inputs),
        outputs=tuple(bound(port.tensor) for port in stage.outputs),
        opset="1",
        tolerance=Tolerance(min_snr_db=None if scheme.name == "float" else 40.0),
    )


def _rung(name: str, fusion: str) -> Rung:
    machine = Machine(architecture="x86_64", cpu="Example CPU", cores=2, features=("avx2",), runtimes={}, threads=1)
    candidates = {"image_encoder": "image_encoder.float", "text_encoder": "text_encoder.float", "fusion": fusion}
    return Rung(
        name=name,
        objective="latency",
        candidates=candidates,
        accuracy={"image+text": 0.9375, "image": 0.75, "text": 0.5},
        drop_ci95={"image+text": (-0.0125, 0.0125)},
        within_budget=True,
        size_bytes=64,
        figures=(Figure(machine=machine, runs=100, p50_ms=1.5, p90_ms=2.0),),
    )


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A manifest that names all of `contents`; the writer fills in its files."""
    stages = _stages()
    schemes = (Scheme(name="float"), Scheme(name="float"), Scheme(name="float"), Scheme(name="fp16"))
    candidates = [
        _candidate(stage, scheme, FILES[f"stages/{stage.name}.{scheme.id}.bin"])
        for stage, scheme in zip((*stages, stages[2]), schemes, strict=True)
    ]
    golden = GoldenCase(
        stage="image_encoder",
        inputs=(GoldenTensor(port="pixels", dtype="uint8", shape=(1, 2, 2, 1), file="golden/000.bin"),),
        outputs=(GoldenTensor(port="feature", dtype="float32", shape=(1, 4), file="golden/001.bin"),),
    )
    return Manifest(
        target="nothing",
        model=ModelSpec(
            name="example",
            modalities=(
                image("image", height=2, width=2, channels=1, optional=True),
                text("text", tokenizer="tokenizer.json", max_length=8, optional=True),
            ),
            outputs=(ClassOutput(labels=("zero", "one", "two")),),
        ),
        stages=stages,
        candidates=tuple(candidates),
        rungs=(_rung("fastest", "fusion.fp16"), _rung("smallest", "fusion.float")),
        default_rung="fastest",
        golden=(golden,),
        files=(),
        provenance=Provenance(
            weights_sha256="0" * 64, data_sha256="1" * 64, recipe_sha256="", tools={"edgefuse": "0.1"}
        ),
    )


@pytest.fixture(scope="session")
def contents() -> Contents:
    """The bytes of every file that `manifest` names, and a report."""
    return FILES


@pytest.fixture
def folder(tmp_path: Path, members: dict[str, bytes]) -> Path:
    """The bundle as a folder (copied: `write_bundle` waits for the disk each time)."""
    for name, data in members.items():
        path = tmp_path / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "bundle"


@pytest.fixture
def archive(tmp_path: Path, packed: bytes) -> Path:
    """The bundle as a single file."""
    path = tmp_path / "bundle.edgefuse"
    path.write_bytes(packed)
    return path


@pytest.fixture
def with_manifest(folder: Path) -> Callable[[bytes], Path]:
    """Put another text in the place of the manifest, with a digest that fits it, as an attacker would."""

    def replace(data: bytes) -> Path:
        (folder / "manifest.json").write_bytes(data)
        line = f"{hashlib.sha256(data).hexdigest()}  manifest.json\n"
        (folder / "manifest.sha256").write_text(line)
        return folder

    return replace


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, contents: Contents) -> bytes:
    """The bytes of the archive."""
    path = tmp_path_factory.mktemp("packed") / "bundle.edgefuse"
    write_bundle(path, manifest, contents)
    return path.read_bytes()


@pytest.fixture(scope="session")
def members(packed: bytes) -> dict[str, bytes]:
    """The members of the archive by name, to make hostile archives of."""
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}
