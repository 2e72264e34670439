"""The quantizer of files for TensorRT: float16, int8, and both at once, all of it written in the graph."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import msgspec
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgefuse.bundle.manifest import BuildPlan
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.export.tensorrt import builder
from edgefuse.export.tensorrt.operators import refused
from edgefuse.export.tensorrt.sparsity import has_two_of_four
from edgefuse.quantize import schemes
from edgefuse.quantize.onnx.calibration import chosen_ranges
from edgefuse.quantize.onnx.file import nothing_to_do, serialize
from edgefuse.quantize.onnx.float16 import compute_in_float16
from edgefuse.quantize.schemes import FP16
from edgefuse.quantize.tensorrt.plan import place
from edgefuse.quantize.tensorrt.static import insert_symmetric_qdq
from edgefuse.stages.stage import FeedSource

INT8_FP16 = Scheme(name="static_wi8_ai8", activation="s8", rest="fp16")
INT8_FP16_PERCENTILE = msgspec.structs.replace(INT8_FP16, calibrator="percentile")

_TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")


class TensorrtQuantizer:
    """Applies schemes to files of the target `tensorrt`; ports, types and shapes of the interface stay as they are."""

    def schemes(self, stage: StageSpec) -> tuple[Scheme, ...]:
        """Return what is worth trying, the likely best first: int8 where it pays in float16, and float16 alone."""
        if stage.role == "frontend":
            return ()
        if stage.role in ("encoder", "model"):
            return (INT8_FP16, INT8_FP16_PERCENTILE, FP16)
        return (INT8_FP16, FP16)

    def known(self) -> tuple[Scheme, ...]:
        """Return every scheme of this target."""
        static = [scheme for scheme in schemes.static("s8", correctable=False) if scheme.table_bits == 8]
        return (*static, *(msgspec.structs.replace(scheme, rest="fp16") for scheme in static), FP16)

    def layers(self, lowered: Lowered, scheme: Scheme) -> tuple[str, ...]:
        """Name the convolutions and matrix products that a scheme quantizes; see `Quantizer.layers`."""
        model = ir.from_proto(onnx.load_from_string(lowered.data))
        return tuple(node.name or "" for node in place(model, scheme).layers)

    def apply(self, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> Lowered:
        """Quantize a float file.

        Raises:
            QuantizeError: if the scheme finds nothing to quantize or is not one of this target, calibration has no
                samples, samples that do not fit, or numbers that are not finite, or TensorRT does not take the graph.
        """
        model = ir.from_proto(onnx.load_from_string(lowered.data))
        if scheme.name == "static_wi8_ai8" and scheme.activation == "s8":
            _quantize_statically(model, lowered, scheme, calibration)
        elif scheme != FP16:
            raise QuantizeError(
                f"'{scheme.id}' is not a scheme for TensorRT",
                expected="fp16, or static_wi8_ai8 with activation s8",
                fix="int8 is symmetric there, and needs static ranges",
            )
        halves = compute_in_float16(model) if "fp16" in (scheme.name, scheme.rest) else 0
        if scheme == FP16 and halves == 0:
            raise nothing_to_do(scheme, "an operator in float32")
        made = replace(lowered, data=_checked(model, scheme), plan=_plan(lowered, model))
        refusal = builder.refusal(made)
        if refusal:
            raise _not_taken(scheme, refusal)
        return made

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that rewrite, and of what calibrates and checks."""
        return {tool: version(tool) for tool in _TOOLS} | builder.versions()


def _quantize_statically(model: ir.Model, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> None:
    placement = place(model, scheme)
    if not placement.layers:
        raise nothing_to_do(scheme, schemes.QUANTIZABLE)
    ranges = chosen_ranges(model, placement.uses, lowered.inputs, calibration, scheme.calibrator)
    insert_symmetric_qdq(model, placement, ranges, scheme)


def _checked(model: ir.Model, scheme: Scheme) -> bytes:
    """Return the file of a graph that TensorRT takes, types included."""
    data = serialize(model, scheme)
    ShapeInferencePass()(model)
    wrong = refused(model)
    if wrong:
        raise _not_taken(scheme, "; ".join(wrong))
    return data


def _not_taken(scheme: Scheme, got: str) -> QuantizeError:
    return QuantizeError(f"'{scheme.id}' made a graph that TensorRT does not take", got=got)


def _plan(lowered: Lowered, model: ir.Model) -> BuildPlan:
    """Return the plan of the float file, sparse if the weights still are: rounding makes zeros, and keeps them."""
    plan = lowered.plan or BuildPlan()
    return msgspec.structs.replace(plan, sparse_weights=plan.sparse_weights and has_two_of_four(model))
