"""The target `tensorrt`: ONNX files whose precision stands in the graph, and a plan to build engines from them.

An engine fits one GPU and one version of TensorRT, so it is built on the device, strongly typed: types are those of the
graph, and neither precision flags nor calibration tables exist. The same files run in ONNX Runtime, which is how they
are checked where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgefuse.bundle.manifest import BuildPlan, Profile
from edgefuse.bundle.spec import Bounded, Bucketed, Dim, largest
from edgefuse.errors import ExportError, ModelError
from edgefuse.export.cost_graph import CostGraph, Roofline
from edgefuse.export.onnx import costs
from edgefuse.export.onnx.forms import apply_common_forms
from edgefuse.export.onnx.target import TOOLS, finished, translated
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt import builder
from edgefuse.export.tensorrt.bounds import name_single_bounds
from edgefuse.export.tensorrt.operators import refused
from edgefuse.export.tensorrt.sparsity import has_two_of_four
from edgefuse.export.torch.forms import Table, first_that_agrees
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import ONNX, TORCH, Array, Feeds, TorchStage

JETSON = Roofline("the GPU of a Jetson AGX Orin", "aarch64", float32=2_048, float16=16_384, int8=32_768, bytes=157)
"""2,048 CUDA cores and 64 tensor cores of 256 float16 or 512 int8 products at 1.3 GHz, and 204.8 GB/s.

From NVIDIA's "Jetson AGX Orin Series Technical Brief"; dense weights, and float32 without TF32.
"""


class TensorrtTarget:
    """Lower stages to ONNX graphs that TensorRT 10 and 11 build engines from, at batch 1."""

    name = "tensorrt"
    title = "TensorRT"
    backend = "tensorrt"
    suffix = ".onnx"
    accelerator = "gpu"
    pads = False
    reads: tuple[str, ...] = (TORCH, ONNX)
    roofline = JETSON

    def lower(self, stage: TorchStage) -> Lowered:
        """Lower a stage in float32, compare the file with torch, plan the engine, and build one where that is possible.

        Raises:
            ExportError: if torch cannot trace the stage, TensorRT does not take an operator or the graph, or the
                file's answers differ from torch's.
        """
        return first_that_agrees(lambda forms: self._lower(stage, forms))

    def _lower(self, stage: TorchStage, forms: Table) -> Lowered:
        model = translated(stage, prepare, forms)
        wrong = refused(model)
        if wrong:
            raise _not_lowered(stage, "; ".join(wrong), "replace these operators, or move them out of the model")
        sparse = _is_semi_structured(stage) and has_two_of_four(model)
        lowered = replace(finished(model, stage), plan=BuildPlan(profiles=profiles(stage), sparse_weights=sparse))
        refusal = builder.refusal(lowered)
        if refusal:
            raise _not_lowered(stage, refusal, "replace what it names, or move it out of the model")
        return lowered

    def operations(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> CostGraph:
        """Return the operations of a file; see `Target.operations`."""
        return costs.read(data, shapes)

    def versions(self) -> dict[str, str]:
        """Return the versions of torch, of the exporter's libraries, and of the runtime and builder that check."""
        return {tool: version(tool) for tool in TOOLS} | builder.versions()


def prepare(model: ir.Model) -> None:
    """Bring a graph into forms that TensorRT takes and fuses, in place.

    What is rewritten for ONNX Runtime alone (sums apart from layer norms, means as products) stays as torch wrote it.
    """
    name_single_bounds(model)
    apply_common_forms(model)
    cast_bytes_first(model)


def cast_bytes_first(model: ir.Model) -> None:
    """Cast uint8 inputs before anything else touches them: TensorRT has uint8 as the type of an input only.

    A picture that is transposed and then cast becomes one that is cast and then transposed.
    """
    for value in model.graph.inputs:
        if value.dtype != ir.DataType.UINT8 or all(use.node.op_type == "Cast" for use in value.uses()):
            continue
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}/Cast")
        floats = cast.outputs[0]
        floats.name, floats.type, floats.shape = f"{value.name}/float", ir.TensorType(ir.DataType.FLOAT), value.shape
        for use in list(value.uses()):
            if use.node.op_type != "Cast":
                use.node.replace_input_with(use.idx, floats)
        model.graph.insert_before(next(iter(model.graph)), cast)
        _retype(model, floats)
    ShapeInferencePass()(model)


_MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def _retype(model: ir.Model, value: ir.Value) -> None:
    """Say float of all that moves a value which has become float, and drop the casts to float behind it."""
    for use in list(value.uses()):
        node = use.node
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
            if not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(value)
                model.graph.remove(node, safe=True)
        elif node.op_type in _MOVES:
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            _retype(model, node.outputs[0])


def profiles(stage: TorchStage) -> tuple[Profile, ...]:
    """Return the shapes of each input of variable shape: from the smallest that runs up to the largest.

    The engine is tuned for the largest: that is the input for which a deadline is tight.
    """
    dynamic = [port.tensor for port in stage.spec.inputs if not all(isinstance(dim, int) for dim in port.tensor.shape)]
    if not dynamic:
        return ()
    smallest = next((feeds for feeds in _growing(stage) if _runs(stage, feeds)), next(example_feeds(stage)))
    return tuple(
        Profile(
            port=tensor.name,
            minimum=smallest[tensor.name].shape,
            optimum=tensor.max_shape,
            maximum=tensor.max_shape,
        )
        for tensor in dynamic
    )


def _growing(stage: TorchStage) -> Iterator[Feeds]:
    """Yield feeds of 1, 2, 4 … steps, cut from those of the largest shape."""
    full = next(example_feeds(stage))
    longest = max(largest(dim) for port in stage.spec.inputs for dim in port.tensor.shape if not isinstance(dim, int))
    for power in range(longest.bit_length()):
        yield {
            port.tensor.name: _cut(full[port.tensor.name], port.tensor.shape, 1 << power) for port in stage.spec.inputs
        }


def _cut(value: Array, shape: tuple[Dim, ...], steps: int) -> Array:
    if value.dtype == np.int32 and value.shape == (1,):
        return np.minimum(value, steps)
    return value[tuple(slice(_size(dim, steps)) for dim in shape)]


def _size(dim: Dim, steps: int) -> int:
    """Return the size of at least so many steps that a dimension may take, or its largest."""
    if isinstance(dim, Bucketed):
        return next((size for size in dim.sizes if size >= steps), dim.sizes[-1])
    return min(steps, dim.max) if isinstance(dim, Bounded) else dim


def _runs(stage: TorchStage, feeds: Feeds) -> bool:
    try:
        results = run_torch(stage, feeds)
    except ModelError:
        return False
    return all(value.size and np.isfinite(value).all() for value in results.values())


def _not_lowered(stage: TorchStage, got: str, fix: str) -> ExportError:
    return ExportError(f"the stage '{stage.spec.name}' cannot be lowered for TensorRT", got=got, fix=fix)


def _is_semi_structured(stage: TorchStage) -> bool:
    return stage.pruning is not None and any(step.method == "semi_structured" for step in stage.pruning.steps)
