"""The tiny model of `tests/tiny.py` once more as TFLite, and small media files."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.bundle.manifest import Binding, Candidate, Manifest
from edgefuse.bundle.spec import StageSpec, TensorSpec
from edgefuse.runtime.pipeline import Pipeline

Array = npt.NDArray[Any]


@pytest.fixture
def tiny_raw() -> dict[str, Any]:
    """Raw input for all three modalities."""
    rng = np.random.default_rng(3)
    return {
        "image": rng.integers(0, 256, (8, 8), dtype=np.uint8),
        "text": "please stop now",
        "motion": rng.normal(size=(1, 3, 3)).astype(np.float32),
    }


@pytest.fixture
def load_tiny(tiny_bundle: Path) -> Callable[..., Pipeline]:
    """Open the tiny bundle; takes the keywords of `edgefuse.load`."""
    import edgefuse

    return lambda **options: edgefuse.load(tiny_bundle, **options)


@pytest.fixture(scope="session")
def encode_png() -> Callable[..., bytes]:
    """Encode an array (or a Pillow image) as the bytes of a picture file."""
    from PIL import Image

    def encode(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def encode_wav() -> Callable[..., bytes]:
    """Encode samples [n] or [n, channels] as the bytes of a sound file."""
    import soundfile  # type: ignore[import-untyped]

    def encode(samples: Array, rate_hz: int = 16_000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def tiny_weights(tiny_files: Mapping[str, bytes]) -> Mapping[str, Mapping[str, Array]]:
    """The constants of the float ONNX files, by stage and name."""
    import onnx
    import onnx.numpy_helper

    def constants(data: bytes) -> dict[str, Array]:
        graph = onnx.load_model_from_string(data).graph
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    floats = {name: data for name, data in tiny_files.items() if name.endswith(".float")}
    return {name.removesuffix(".float"): constants(data) for name, data in floats.items()}


def _torch_stages(weights: Mapping[str, Mapping[str, Array]]) -> dict[str, Any]:
    """Return the tiny stages as torch modules."""
    import torch
    from torch import Tensor, nn

    def constant(stage: str, name: str) -> Tensor:
        return torch.from_numpy(weights[stage][name].copy())

    class Function(nn.Module):
        def __init__(self, function: Callable[..., Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.function(*inputs)

    def valid(length: Tensor, steps: int) -> Tensor:
        return (torch.arange(steps, dtype=torch.int32)[None] < length[:, None])[..., None]

    def image_encoder(normalised: Tensor) -> Tensor:
        flat = normalised.reshape(1, 64)
        return torch.tanh(flat @ constant("image_encoder", "weight") + constant("image_encoder", "bias"))

    def text_encoder(ids: Tensor, length: Tensor) -> Tensor:
        embedded = nn.functional.embedding(ids, constant("text_encoder", "table"))
        return torch.where(valid(length, 6), embedded, 0.0).sum(1) / length.float()

    def motion_encoder(values: Tensor, length: Tensor) -> Tensor:
        hidden = values @ constant("motion_encoder", "weight")
        return torch.tanh(torch.where(valid(length, 5), hidden, 0.0).sum(1))

    def fusion(image: Tensor, text: Tensor, motion: Tensor, present: Tensor) -> Tensor:
        stacked = torch.where((present > 0)[..., None], torch.stack([image, text, motion], 1), 0.0)
        return stacked.reshape(1, 24) @ constant("fusion", "weight") + constant("fusion", "bias")

    functions: dict[str, Callable[..., Tensor]] = {
        "image_frontend": lambda pixels: pixels.float().permute(0, 3, 1, 2) / 255,
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
        "motion_encoder": motion_encoder,
        "fusion": fusion,
    }
    return {name: Function(function).eval() for name, function in functions.items()}


def _fixed_bindings(tensors: Iterable[TensorSpec], prefix: str) -> tuple[Binding, ...]:
    return tuple(
        Binding(
            port=tensor.name,
            tensor=f"{prefix}_{position}",
            dtype=tensor.dtype,
            shape=tensor.max_shape,
        )
        for position, tensor in enumerate(tensors)
    )


@pytest.fixture(scope="session")
def tflite_files(
    tiny_stages: tuple[StageSpec, ...],
    tiny_weights: Mapping[str, Mapping[str, Array]],
) -> Mapping[str, bytes]:
    """The float stages as TFLite files of fixed shapes, by stage name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between torch and its converter
        torch = pytest.importorskip("torch")
        litert_torch = pytest.importorskip("litert_torch")
    modules = _torch_stages(tiny_weights)

    def convert(stage: StageSpec) -> bytes:
        shapes = [(port.tensor.max_shape, getattr(torch, port.tensor.dtype)) for port in stage.inputs]
        examples = tuple(torch.ones(shape, dtype=dtype) for shape, dtype in shapes)
        return bytes(litert_torch.convert(modules[stage.name], examples).model_content())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between torch and its converter
        return MappingProxyType({stage.name: convert(stage) for stage in tiny_stages})


@pytest.fixture(scope="session")
def tflite_manifest(
    tiny_manifest: Manifest, tiny_stages: tuple[StageSpec, ...], tflite_files: Mapping[str, bytes]
) -> Manifest:
    """The manifest of the TFLite twin, with the one rung `float`."""
    floats = {candidate.stage: candidate for candidate in tiny_manifest.candidates if candidate.scheme == "float"}

    def candidate(stage: StageSpec) -> Candidate:
        data = tflite_files[stage.name]
        return msgspec.structs.replace(
            floats[stage.name],
            target="tflite",
            backend="tflite",
            file=f"stages/{stage.name}.float.tflite",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            inputs=_fixed_bindings((port.tensor for port in stage.inputs), "args"),
            outputs=_fixed_bindings((port.tensor for port in stage.outputs), "output"),
            opset="tflite",
        )

    return msgspec.structs.replace(
        tiny_manifest,
        target="tflite",
        candidates=tuple(candidate(stage) for stage in tiny_stages),
        rungs=tiny_manifest.rungs[:1],
    )


@pytest.fixture
def tflite_bundle(
    tmp_path: Path,
    tflite_manifest: Manifest,
    tflite_files: Mapping[str, bytes],
    tiny_contents: Mapping[str, bytes],
) -> Path:
    """The tiny bundle for TFLite."""
    from edgefuse.bundle.writer import write_bundle

    shared = {path: data for path, data in tiny_contents.items() if not path.startswith("stages/")}
    stages = {candidate.file: tflite_files[candidate.stage] for candidate in tflite_manifest.candidates}
    path = tmp_path / "tiny-tflite.edgefuse"
    write_bundle(path, tflite_manifest, {**shared, **stages})
    return path
