"""ONNX files as other tools write them: a small CLIP with a head, exported by torch, and two encoders by hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from onnx import TensorProto
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.bundle.spec import Bounded

STEPS = 12
LABELS = ("cat", "dog", "bird", "fish")


class Attending(nn.Module):
    """A transformer block that keeps to a mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.before(x)
        scores = self.query(y) @ self.key(y).transpose(1, 2) / x.shape[2] ** 0.5
        if mask is not None:
            scores = scores + (1.0 - mask[:, None, :]) * -1e4
        x = x + torch.softmax(scores, 2) @ self.value(y)
        y = self.after(x)
        result: Tensor = x + self.narrow(nn.functional.gelu(self.wide(y)))
        return result


class Clip(nn.Module):
    """A picture in patches, ids with their mask, and a head on both embeddings."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches, self.seen = nn.Conv2d(3, width, 4, stride=4), Attending(width)
        self.table, self.places = nn.Embedding(100, width), nn.Embedding(STEPS, width)
        self.read = Attending(width)
        self.head = nn.Linear(2 * width, len(LABELS))

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        image = self.seen(self.patches(pixel_values).flatten(2).transpose(1, 2)).mean(1)
        mask = attention_mask.float()
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        text = self.read(self.table(input_ids) + self.places(places), mask)
        text = (text * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        result: Tensor = self.head(torch.cat([image, text], 1))
        return result


def clip() -> Clip:
    torch.manual_seed(0)
    return Clip().eval()


IMAGE = spec.tensors("image", spec.TensorSpec(name="pixel_values", shape=(1, 3, 16, 16)))
TEXT = spec.tensors(
    "text",
    *(
        spec.TensorSpec(name=name, dtype="int32", shape=(1, Bounded(max=STEPS)))
        for name in ("input_ids", "attention_mask")
    ),
)
SPEC = spec.ModelSpec(name="clip", modalities=(IMAGE, TEXT), outputs=(spec.ClassOutput(labels=LABELS),))


def exported(path: Path, opset: int, *, by_trace: bool) -> Path:
    """Export the model, its weights in a file beside: as Optimum does (by trace), or through torch.export."""
    inputs = (
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, STEPS, dtype=torch.int64),
        torch.ones(2, STEPS, dtype=torch.int64),
    )
    names = ["pixel_values", "input_ids", "attention_mask"]
    axes = {"pixel_values": {0: "batch"}, **{name: {0: "batch", 1: "sequence"} for name in names[1:]}}
    with warnings.catch_warnings(action="ignore"):  # that the older exporter is the older one
        if by_trace:
            whole = path.with_name("whole.onnx")
            torch.onnx.export(
                clip(), inputs, whole, input_names=names, output_names=["logits"], dynamic_axes=axes,
                opset_version=opset, dynamo=False,
            )  # fmt: skip
            onnx.save_model(
                onnx.load(whole), path, save_as_external_data=True, location="weights.bin", size_threshold=0
            )
        else:
            shapes = [dict.fromkeys(one, torch.export.Dim.DYNAMIC) for one in axes.values()]
            torch.onnx.export(
                clip(), inputs, path, input_names=names, output_names=["logits"], dynamic_shapes=shapes,
                opset_version=opset, external_data=True, dynamo=True, verbose=False,
            )  # fmt: skip
    return path


def sample(seed: int, steps: int = STEPS) -> dict[str, npt.NDArray[Any]]:
    """Return inputs of the model by their names in it."""
    rng = np.random.default_rng(seed)
    mask = np.ones((1, steps), np.int64)
    mask[:, steps - seed % 3 :] = 0
    return {
        "pixel_values": rng.normal(size=(1, 3, 16, 16)).astype(np.float32),
        "input_ids": rng.integers(0, 100, (1, steps)),
        "attention_mask": mask,
    }


Nodes = list[onnx.NodeProto]


def by_hand(path: Path, nodes: Nodes | None = None, *, opset: int = 17, extra: tuple[Any, ...] = ()) -> Path:
    """Write two encoders and a sum: of a sound [1, 64] and of motion [1, 32], both of one sample.

    Args:
        path: of the file.
        nodes: in place of the last one, from `a` and `b` to `score`.
        opset: of the operators.
        extra: further domains.
    """
    rng = np.random.default_rng(1)
    weights = {
        "w_sound": rng.normal(size=(64, 128)).astype(np.float32) / 8,
        "v_sound": rng.normal(size=(128, 16)).astype(np.float32) / 8,
        "w_motion": rng.normal(size=(32, 128)).astype(np.float32) / 8,
        "v_motion": rng.normal(size=(128, 16)).astype(np.float32) / 8,
        "head": rng.normal(size=(16, 3)).astype(np.float32),
    }
    node = onnx.helper.make_node
    body = [
        node("MatMul", ["sound", "w_sound"], ["s1"], name="sound/up"),
        node("Relu", ["s1"], ["s2"]),
        node("MatMul", ["s2", "v_sound"], ["a"]),
        node("MatMul", ["motion", "w_motion"], ["m1"]),
        node("Tanh", ["m1"], ["m2"]),
        node("MatMul", ["m2", "v_motion"], ["b"]),
        *(nodes or [node("Add", ["a", "b"], ["sum"]), node("MatMul", ["sum", "head"], ["score"])]),
    ]
    graph = onnx.helper.make_graph(
        body,
        "main",
        [value("sound", [1, 64]), value("motion", [1, 32])],
        [value("score", [1, 3])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [onnx.helper.make_opsetid("", opset), *extra]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, kind, shape)


BY_HAND = spec.ModelSpec(
    name="by-hand",
    modalities=(spec.tensor("sound", shape=(1, 64)), spec.tensor("motion", shape=(1, 32))),
    outputs=(spec.ValuesOutput(name="score", labels=("a", "b", "c")),),
    metric="mse",
)
