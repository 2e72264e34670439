"""The quantizer of ONNX files: int8 weights with dynamic or static activations, and float16 weights."""

from __future__ import annotations

from importlib.metadata import version

import onnx
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.quantize import schemes
from edgefuse.quantize.onnx.bias import correct_biases, float_means, give_biases
from edgefuse.quantize.onnx.calibration import chosen_ranges
from edgefuse.quantize.onnx.file import nothing_to_do, serialize
from edgefuse.quantize.onnx.ort.dynamic import quantize_dynamically
from edgefuse.quantize.onnx.ort.int4 import BLOCK, embed_in_int4, quantize_to_int4
from edgefuse.quantize.onnx.ort.linear import matmuls_to_gemm
from edgefuse.quantize.onnx.ort.stem import fold_stride_into_channels
from edgefuse.quantize.onnx.plan import excluded, lstm_weights, plan, weight_of
from edgefuse.quantize.onnx.static import insert_qdq
from edgefuse.quantize.onnx.weights import embed_in_int8, store_in_float16
from edgefuse.quantize.schemes import FP16
from edgefuse.stages.stage import FeedSource

DYNAMIC = Scheme(name="dynamic_wi8_af32")
STATIC_U8 = Scheme(name="static_wi8_ai8", activation="u8")
STATIC_S8 = Scheme(name="static_wi8_ai8", activation="s8")
STATIC_PERCENTILE = Scheme(name="static_wi8_ai8", activation="u8", calibrator="percentile")

_TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy")


class OnnxQuantizer:
    """Applies schemes to ONNX files; ports, types and shapes of the interface stay as they are."""

    def schemes(self, stage: StageSpec) -> tuple[Scheme, ...]:
        """Return what is worth trying, the likely best first.

        Unsigned activations are the fast ones on x86, signed ones on Arm. Percentile ranges matter where features have
        outliers, in encoders; features that other stages computed are few and tame. What else there is (`known`) gains
        little where the extremes are good enough, or costs time for size, as int4 does.
        """
        if stage.role == "frontend":
            return ()
        if stage.role in ("encoder", "model"):
            return (STATIC_U8, DYNAMIC, STATIC_PERCENTILE, STATIC_S8, FP16)
        return (DYNAMIC, STATIC_U8, STATIC_S8, FP16)

    def known(self) -> tuple[Scheme, ...]:
        """Return every scheme of this target."""
        return (*schemes.static("u8", "s8", correctable=True), *schemes.dynamic(), FP16)

    def layers(self, lowered: Lowered, scheme: Scheme) -> tuple[str, ...]:
        """Name the convolutions and matrix products that a scheme quantizes; see `Quantizer.layers`."""
        graph = ir.from_proto(onnx.load_from_string(lowered.data)).graph
        kinds = ("Conv", "Gemm", "MatMul") if scheme.name == "static_wi8_ai8" else ("Gemm", "MatMul")
        nodes = [node for node in graph if node.op_type in kinds and weight_of(node) is not None]
        if scheme.name == "dynamic_wi8_af32":
            nodes += [node for node in graph if lstm_weights(node) is not None]
        return tuple(node.name or "" for node in nodes if not excluded(node, scheme))

    def apply(self, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> Lowered:
        """Quantize a float file.

        Raises:
            QuantizeError: if the scheme finds nothing to quantize, or calibration has no samples, samples that do not
                fit, or numbers that are not finite.
        """
        model = ir.from_proto(onnx.load_from_string(lowered.data))
        if scheme.name == "dynamic_wi8_af32":
            if quantize_dynamically(model, scheme) == 0:
                raise nothing_to_do(scheme, f"a matrix product by {schemes.SMALLEST_PRODUCT:,} weights or more")
            _embed(model, scheme)
        elif scheme.name == "dynamic_wi4_af32":
            if quantize_to_int4(model, scheme) == 0:
                raise nothing_to_do(scheme, "a matrix product by a constant, or an embedding table,")
        elif scheme.name == "static_wi8_ai8":
            _quantize_statically(model, lowered, scheme, calibration)
        elif scheme.name != "fp16":
            raise QuantizeError(f"'{scheme.id}' is not a scheme to apply to a file")
        # What stays float is no slower so, and 60 dB from float32.
        store_in_float16(model, factors_only=scheme.name != "fp16")
        opset = ", ".join(f"{domain or 'ai.onnx'} {number}" for domain, number in model.opset_imports.items())
        return Lowered(serialize(model, scheme), lowered.inputs, lowered.outputs, opset)

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that rewrite, and of the runtime that calibrates."""
        return {tool: version(tool) for tool in _TOOLS}


def _quantize_statically(model: ir.Model, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> None:
    if scheme.activation not in ("u8", "s8"):
        raise QuantizeError(
            "a static scheme needs the sign of its activations", got=repr(scheme.activation), expected="'u8' or 's8'"
        )
    fold_stride_into_channels(model, scheme)
    matmuls_to_gemm(model)
    chosen = plan(model, scheme)
    if not chosen.nodes:
        raise nothing_to_do(scheme, schemes.QUANTIZABLE)
    ranges = chosen_ranges(model, chosen.values, lowered.inputs, calibration, scheme.calibrator)
    if scheme.corrected:
        give_biases(model.graph, chosen)
        wanted = float_means(model, chosen, lowered.inputs, calibration)
    insert_qdq(model, chosen, ranges, scheme)
    if scheme.corrected:
        correct_biases(model, chosen, wanted, lowered.inputs, calibration)
    _embed(model, scheme)


def _embed(model: ir.Model, scheme: Scheme) -> None:
    """Store embedding tables in as many bits as the scheme says; those whose rows are no whole blocks in eight."""
    if scheme.table_bits == 4 and embed_in_int4(model, scheme) == 0:
        raise nothing_to_do(scheme, f"an embedding table of a width that is a multiple of {BLOCK}")
    embed_in_int8(model)
