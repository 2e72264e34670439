"""Quantize TFLite files: int8 where it is fast, with ai-edge-quantizer under a recipe of our own.

ai-edge-quantizer writes the file; which operators are quantized, and over which ranges, is decided here. Its own
recipes quantize everything they can, and its own calibration holds all samples for a moving average (0.95) that has
not reached the range of the data after hundreds of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np

from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import QuantizeError, cited
from edgefuse.export.target import Lowered
from edgefuse.export.tflite.file import pack, unpack
from edgefuse.export.tracing import quiet
from edgefuse.quantize import schemes
from edgefuse.quantize.calibration.calibrators import CALIBRATORS
from edgefuse.quantize.calibration.ranges import Range
from edgefuse.quantize.tflite import selection
from edgefuse.quantize.tflite.calibration import observe
from edgefuse.quantize.tflite.selection import Operator, TfliteGraph
from edgefuse.stages.stage import FeedSource

_STATIC = Scheme(name="static_wi8_ai8", activation="s8")
_DYNAMIC = Scheme(name="dynamic_wi8_af32")

_BLOCK = 32
"""Numbers of a table that share a scale where they have four bits, as in ONNX."""

Rules: TypeAlias = list[dict[str, Any]]
"""Entries of ai-edge-quantizer's recipe."""


class TfliteQuantizer:
    """Applies schemes to LiteRT files; the interface of a file stays as it is, float32 and by the same names.

    `static_wi8_ai8` quantizes what `selection.static` chooses (activations signed: XNNPACK has no other
    kernels), `dynamic_wi8_af32` matrix products and plain convolutions; both store embedding tables in int8 with a
    scale per row, or in int4 with a scale per block (`table_bits`). `dynamic_wi4_af32` has matrix products and tables
    in int4, and convolutions in int8. `fp16` stores weights in half precision and computes in float32.
    """

    def schemes(self, stage: StageSpec) -> tuple[Scheme, ...]:
        """Return the schemes worth trying, the most promising first. A frontend gets none.

        In encoders static ranges are faster wherever there are convolutions; fusion is matrix products over a few
        tokens, where dynamic ranges are as fast and closer to float.
        """
        if stage.role == "frontend":
            return ()
        return (_DYNAMIC, _STATIC) if stage.role in ("fusion", "decoder") else (_STATIC, _DYNAMIC)

    def known(self) -> tuple[Scheme, ...]:
        """Return every scheme of this target."""
        return (*schemes.static("s8", correctable=False), *schemes.dynamic(), schemes.FP16)

    def layers(self, lowered: Lowered, scheme: Scheme) -> tuple[str, ...]:
        """Name the convolutions and matrix products that a scheme quantizes; see `Quantizer.layers`."""
        kinds = selection.WEIGHTED if scheme.name == "static_wi8_ai8" else selection.DYNAMIC
        graph = TfliteGraph(lowered.data)
        operators = selection.weighted(graph, kinds, scheme.exclude) + selection.in_loops(graph, scheme.exclude)
        return tuple(operator.name for operator in operators)

    def apply(self, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> Lowered:
        """Quantize a float file; see `Quantizer.apply`.

        Raises:
            QuantizeError: if the scheme is not one of this target, finds nothing to quantize, or calibration fails.
        """
        _check(scheme)
        graph = TfliteGraph(lowered.data)
        rules = _RULES[scheme.name](graph, scheme)
        if not rules:
            raise QuantizeError(
                f"the scheme '{scheme.id}' finds nothing to quantize in this stage",
                got=f"operators {', '.join(sorted({operator.kind for operator in graph.operators})) or 'none'}",
                expected=f"at least {schemes.QUANTIZABLE} that the scheme does not exclude",
                fix="leave the stage in float, or exclude fewer operators",
            )
        ranges: dict[str, Range] = {}
        if scheme.name == "static_wi8_ai8":
            operators = selection.static(graph, scheme.exclude)
            tensors = {i: graph.names[i] for o in operators for i in (*graph.activations(o), *o.outputs)}
            counting = scheme.calibrator != "minmax"
            if tensors:
                found = observe(lowered.data, lowered.inputs, tensors, calibration, counting=counting)
                ranges = {seen.name: CALIBRATORS[scheme.calibrator](seen) for seen in found}
        data = _quantize(lowered.data, rules, ranges)
        return Lowered(data=data, inputs=lowered.inputs, outputs=lowered.outputs, opset=lowered.opset)

    def versions(self) -> dict[str, str]:
        """Return the versions of ai-edge-quantizer and of the runtime that calibrates."""
        return {name: version(name) for name in ("ai-edge-quantizer", "ai-edge-litert")}


def _check(scheme: Scheme) -> None:
    """Raise `QuantizeError` if a scheme asks for what LiteRT or this module does not have."""
    if scheme.name == "float":
        raise QuantizeError("the scheme 'float' quantizes nothing", fix="use the float file itself")
    if scheme.activation == "u8":
        raise QuantizeError("LiteRT has no fast kernels for unsigned activations", got="activation u8", expected="s8")
    if scheme.corrected:
        raise QuantizeError(
            f"edgefuse corrects no biases in TFLite files, as '{scheme.id}' asks",
            fix="take the scheme without 'corrected', which gains little where every channel has a scale",
        )


def _quantize(data: bytes, rules: Rules, ranges: Mapping[str, Range]) -> bytes:
    """Run ai-edge-quantizer and check what it wrote."""
    statistics = {n: {"min": np.array([limit.low]), "max": np.array([limit.high])} for n, limit in ranges.items()}
    with quiet():
        from ai_edge_quantizer.quantizer import Quantizer

        try:
            result = Quantizer(data, rules).quantize(statistics or None, enable_progress_report=False)
        except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
            raise QuantizeError(
                "ai-edge-quantizer refuses the file",
                got=cited(error),
                fix="exclude the operator named from the scheme",
            ) from error
    model = unpack(bytes(result.quantized_model))
    _give_floats(model)
    _check_scales(model)
    return pack(model)


def _give_floats(model: Any) -> None:
    """Let the main graph give what its signature names, in place.

    Where a quantized operator reads a result, as it does a decoder's next state, ai-edge-quantizer (0.10) has the graph
    give the quantized tensor instead, and LiteRT has no memory for the one that is asked for ("Tensor data is null").

    Args:
        model: a file as the schema's `ModelT`.
    """
    graph = model.subgraphs[0]
    named = {int(result.tensorIndex) for signature in model.signatureDefs or () for result in signature.outputs}
    source = {int(one.outputs[0]): int(one.inputs[0]) for one in graph.operators if len(one.inputs) == 1}
    graph.outputs = [
        source[given] if given not in named and source.get(given) in named else given
        for given in map(int, graph.outputs)
    ]


def _check_scales(model: Any) -> None:
    """Raise `QuantizeError` if any scale is not a positive number; LiteRT runs such files and answers NaN."""
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        scale = None if tensor.quantization is None else tensor.quantization.scale
        if scale is not None and not (np.isfinite(scale).all() and (np.asarray(scale) > 0).all()):
            name = tensor.name.decode()
            raise QuantizeError(
                f"the tensor '{name}' has no usable quantization scale",
                got=f"{np.asarray(scale).ravel()[:4].tolist()}",
                expected="positive numbers",
                fix=f"exclude '{name}' from the scheme, or look for huge values in its calibration data",
            )


def _rules(operators: Iterable[Operator], rule: dict[str, Any]) -> Rules:
    """Return one recipe entry per operator: ai-edge-quantizer finds it by kind and the name of its output."""
    return [{"regex": f"^{re.escape(o.name)};", "operation": o.kind, **rule} for o in operators]


def _static_rules(graph: TfliteGraph, scheme: Scheme) -> Rules:
    loops = _rules(selection.in_loops(graph, scheme.exclude), _dynamic(scheme))
    return _rules(selection.static(graph, scheme.exclude), _static(scheme)) + loops + _table_rules(graph, scheme)


def _dynamic_rules(graph: TfliteGraph, scheme: Scheme) -> Rules:
    products = selection.weighted(graph, selection.DYNAMIC, scheme.exclude) + selection.in_loops(graph, scheme.exclude)
    return _rules(products, _dynamic(scheme)) + _table_rules(graph, scheme)


def _int4_rules(graph: TfliteGraph, scheme: Scheme) -> Rules:
    """Give matrix products and tables four bits; convolutions, whose int4 kernel is slower than float, eight."""
    narrow = selection.weighted(graph, selection.INT4, scheme.exclude) + selection.in_loops(graph, scheme.exclude)
    others = selection.weighted(graph, selection.DYNAMIC - selection.INT4, scheme.exclude)
    rules = _rules(narrow, _dynamic(scheme, bits=4)) + _in_blocks(graph, scheme)
    return rules + _rules(others, _dynamic(scheme)) if rules else []


def _table_rules(graph: TfliteGraph, scheme: Scheme) -> Rules:
    """Give tables as many bits as the scheme says.

    Raises:
        QuantizeError: four bits are asked for, but there is no table.
    """
    if scheme.table_bits == 8:
        return _rules(selection.weighted(graph, selection.TABLES, scheme.exclude), _dynamic(scheme))
    rules = _in_blocks(graph, scheme)
    if not rules:
        raise QuantizeError(
            f"'{scheme.id}' finds nothing to store in four bits in this stage",
            expected="an embedding table that the scheme does not exclude",
            fix="leave the scheme out for this stage",
        )
    return rules


def _in_blocks(graph: TfliteGraph, scheme: Scheme) -> Rules:
    """Give tables four bits: in blocks with a scale each where a row is whole blocks, else with a scale per row."""
    tables = selection.weighted(graph, selection.TABLES, scheme.exclude)
    whole = [table for table in tables if graph.row(table) % _BLOCK == 0]
    others = [table for table in tables if table not in whole]
    blocks = _dynamic(scheme, bits=4, granularity=f"BLOCKWISE_{_BLOCK}")
    return _rules(whole, blocks) + _rules(others, _dynamic(scheme, bits=4))


def _half_rules(graph: TfliteGraph, scheme: Scheme) -> Rules:
    weighted = selection.weighted(graph, selection.WEIGHTED | selection.TABLES, scheme.exclude)
    return _rules(weighted + selection.in_loops(graph, scheme.exclude), _HALF)


def _static(scheme: Scheme) -> dict[str, Any]:
    activations = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"}
    rule = _dynamic(scheme)
    return {**rule, "op_config": {**rule["op_config"], "activation_tensor_config": activations}}


def _dynamic(scheme: Scheme, bits: int = 8, granularity: str = "") -> dict[str, Any]:
    granularity = granularity or {"channel": "CHANNELWISE", "tensor": "TENSORWISE"}[scheme.granularity]
    return {
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": {
            "weight_tensor_config": {"num_bits": bits, "symmetric": True, "granularity": granularity, "dtype": "INT"},
            "compute_precision": "INTEGER",
            "explicit_dequantize": False,
        },
    }


_HALF: dict[str, Any] = {
    "algorithm_key": "float_casting",
    "op_config": {
        "weight_tensor_config": {
            "num_bits": 16,
            "symmetric": True,
            "granularity": "TENSORWISE",
            "dtype": "FLOAT",
        },
        "compute_precision": "FLOAT",
        "explicit_dequantize": True,
    },
}

_RULES: Mapping[str, Callable[[TfliteGraph, Scheme], Rules]] = {
    "static_wi8_ai8": _static_rules,
    "dynamic_wi8_af32": _dynamic_rules,
    "dynamic_wi4_af32": _int4_rules,
    "fp16": _half_rules,
}
