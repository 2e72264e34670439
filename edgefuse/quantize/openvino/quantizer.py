"""The quantizer of files for OpenVINO: int8 with ranges of our own or of NNCF's, and float16 weights."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import msgspec
import onnx
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.quantize import schemes
from edgefuse.quantize.calibration.ranges import Range
from edgefuse.quantize.onnx.calibration import chosen_ranges
from edgefuse.quantize.onnx.file import nothing_to_do, serialize
from edgefuse.quantize.onnx.plan import Plan, plan, weight_of
from edgefuse.quantize.onnx.static import insert_qdq
from edgefuse.quantize.onnx.weights import embed_in_int8, store_in_float16
from edgefuse.quantize.schemes import FP16
from edgefuse.stages.stage import FeedSource

STATIC = Scheme(name="static_wi8_ai8", activation="s8")
STATIC_PERCENTILE = msgspec.structs.replace(STATIC, calibrator="percentile")
STATIC_U8 = msgspec.structs.replace(STATIC, activation="u8")
NNCF = Scheme(name="nncf_wi8_ai8")

_TOOLS = ("onnx", "onnx-ir", "onnxruntime", "numpy", "nncf")


class OpenvinoQuantizer:
    """Applies schemes to files of the target `openvino`; ports, types and shapes of the interface stay as they are.

    All int8 schemes quantize the same operators, those of `quantize.onnx.plan`. With `s8` the zero of a value that has
    negative numbers is in the middle of its range, and that of another at its end; with `u8` it is where the range
    has it. `nncf_wi8_ai8` has NNCF's ranges and its corrected biases.
    """

    def schemes(self, stage: StageSpec) -> tuple[Scheme, ...]:
        """Return what is worth trying, the likely best first: they are equally fast, so the closest to float."""
        if stage.role == "frontend":
            return ()
        if stage.role in ("encoder", "model"):
            return (STATIC, STATIC_U8, STATIC_PERCENTILE, NNCF, FP16)
        return (STATIC, STATIC_U8, NNCF, FP16)

    def known(self) -> tuple[Scheme, ...]:
        """Return every scheme of this target."""
        static = (scheme for scheme in schemes.static("s8", "u8", correctable=False) if scheme.table_bits == 8)
        return (*static, NNCF, FP16)

    def layers(self, lowered: Lowered, scheme: Scheme) -> tuple[str, ...]:
        """Name the convolutions and matrix products that a scheme quantizes; see `Quantizer.layers`."""
        chosen = plan(ir.from_proto(onnx.load_from_string(lowered.data)), scheme)
        return tuple(node.name or "" for node in chosen.nodes if weight_of(node) is not None)

    def apply(self, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> Lowered:
        """Quantize a float file.

        Raises:
            QuantizeError: if the scheme finds nothing to quantize or is not one of this target, or calibration has no
                samples, samples that do not fit, or numbers that are not finite.
        """
        if msgspec.structs.replace(scheme, exclude=()) not in self.known():
            raise QuantizeError(
                f"'{scheme.id}' is not a scheme for OpenVINO",
                expected="fp16, nncf_wi8_ai8, or static_wi8_ai8 with activation s8 or u8",
                fix="ranges found per run are slower there than float, and biases are corrected by nncf_wi8_ai8",
            )
        model = ir.from_proto(onnx.load_from_string(lowered.data))
        if scheme.name != "fp16":
            model = _in_int8(model, lowered, scheme, calibration)
            embed_in_int8(model)
        store_in_float16(model, factors_only=scheme.name != "fp16")
        return replace(lowered, data=serialize(model, scheme))

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that rewrite and quantize, and of the runtime that calibrates."""
        return {tool: version(tool) for tool in _TOOLS}


def _in_int8(model: ir.Model, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> ir.Model:
    """Return a graph in int8: itself, or another."""
    chosen = plan(model, scheme)
    if not any(weight_of(node) is not None for node in chosen.nodes):
        raise nothing_to_do(scheme, schemes.QUANTIZABLE)
    if scheme.name == NNCF.name:
        return _by_nncf(model, chosen, lowered, calibration)
    ranges = chosen_ranges(model, chosen.values, lowered.inputs, calibration, scheme.calibrator)
    if scheme.activation == "s8":
        ranges = {name: _centred(limit) for name, limit in ranges.items()}
    insert_qdq(model, chosen, ranges, scheme)
    return model


def _by_nncf(model: ir.Model, chosen: Plan, lowered: Lowered, calibration: FeedSource) -> ir.Model:
    from edgefuse.quantize.openvino.post_training import quantize  # seconds, for one scheme of several

    floats = [node.name or "" for node in model.graph if node not in chosen.nodes]
    return quantize(model, floats, lowered.inputs, calibration)


def _centred(limit: Range) -> Range:
    """Return a range with zero in its middle, if it has negative numbers: 255 steps as -128 to 127."""
    if limit.low >= 0.0:
        return limit
    largest = max(-limit.low, limit.high)
    return Range(-largest * 128.0 / 127.0, largest)
