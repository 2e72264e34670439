"""The tiny model of `tests/tiny.py` once more as TFLite, and as a bundle whose stages run in two runtimes.

The stages are converted from torch: whoever asks for `files` needs torch and litert_torch.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import msgspec
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding, Candidate, Manifest, Rung
from edgefuse.bundle.spec import StageSpec, TensorSpec
from tests import tiny

Array = npt.NDArray[Any]
IN_LITERT = ("motion_encoder", "fusion")
"""The stages that run in LiteRT in the rung `joined`; the others run in ONNX Runtime."""


@cache
def _weights() -> Mapping[str, Mapping[str, Array]]:
    """The constants of the float ONNX files, by stage and name."""
    import onnx
    import onnx.numpy_helper

    def constants(data: bytes) -> dict[str, Array]:
        graph = onnx.load_model_from_string(data).graph
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    floats = {name: data for name, data in tiny.files().items() if name.endswith(".float")}
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


@cache
def files() -> Mapping[str, bytes]:
    """The float stages as TFLite files of fixed shapes, by stage name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between torch and its converter
        import litert_torch
        import torch

        modules = _torch_stages(_weights())

        def convert(stage: StageSpec) -> bytes:
            shapes = [(port.tensor.max_shape, getattr(torch, port.tensor.dtype)) for port in stage.inputs]
            examples = tuple(torch.ones(shape, dtype=dtype) for shape, dtype in shapes)
            return bytes(litert_torch.convert(modules[stage.name], examples).model_content())

        return MappingProxyType({stage.name: convert(stage) for stage in tiny.stages()})


def _fixed_bindings(tensors: Iterable[TensorSpec], prefix: str) -> tuple[Binding, ...]:
    return tuple(
        Binding(port=tensor.name, tensor=f"{prefix}_{position}", dtype=tensor.dtype, shape=tensor.max_shape)
        for position, tensor in enumerate(tensors)
    )


def _candidate(stage: StageSpec) -> Candidate:
    """The candidate of a stage's TFLite file, under the id of the ONNX one."""
    data = files()[stage.name]
    twin = next(one for one in tiny.candidates() if one.id == f"{stage.name}.float")
    return msgspec.structs.replace(
        twin,
        target="tflite",
        backend="tflite",
        file=f"stages/{stage.name}.float.tflite",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        inputs=_fixed_bindings((port.tensor for port in stage.inputs), "args"),
        outputs=_fixed_bindings((port.tensor for port in stage.outputs), "output"),
        opset="tflite",
    )


@cache
def manifest() -> Manifest:
    """The manifest of the TFLite twin, with the one rung `float`."""
    own = tuple(map(_candidate, tiny.stages()))
    return msgspec.structs.replace(tiny.manifest(), target="tflite", candidates=own, rungs=tiny.manifest().rungs[:1])


@cache
def joined() -> Manifest:
    """A manifest for both runtimes.

    The rung `joined` (the default) runs `IN_LITERT` in LiteRT and the rest in ONNX Runtime, `small` the same with the
    int8 encoder; `float` needs ONNX Runtime alone.
    """
    own = {
        one.stage: msgspec.structs.replace(one, id=f"{one.id}.tflite")
        for one in manifest().candidates
        if one.stage in IN_LITERT
    }
    candidates = (*tiny.candidates(), *own.values())
    sizes = {one.id: one.size_bytes for one in candidates}
    floats, small = tiny.manifest().rungs
    swapped = {stage: one.id for stage, one in own.items()}

    def mixed(rung: Rung, name: str) -> Rung:
        choice = rung.candidates | swapped
        size_bytes = sum(sizes[chosen] for chosen in choice.values())
        return msgspec.structs.replace(rung, name=name, objective="latency", candidates=choice, size_bytes=size_bytes)

    return msgspec.structs.replace(
        tiny.manifest(),
        target="onnx+tflite",
        candidates=candidates,
        rungs=(mixed(floats, "joined"), floats, mixed(small, "small")),
        default_rung="joined",
    )


def contents(of: Manifest) -> Mapping[str, bytes]:
    """The files of a bundle with one of these manifests, by path, without the manifest."""
    shared = {path: data for path, data in tiny.contents().items() if not path.startswith("stages/")}
    opened = {
        one.file: files()[one.stage] if one.backend == "tflite" else tiny.files()[one.id] for one in of.candidates
    }
    return MappingProxyType({**shared, **opened})
