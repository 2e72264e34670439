"""Quantize TFLite files: int8 where it is fast, with ai-edge-quantizer under a recipe of our own.

ai-edge-quantizer writes the file; which operators are quantized, and over which ranges, is decided here. Its own
recipes quantize everything they can, and its own calibration holds all samples for a moving average (0.95) that has
not reached the range of the data after hundreds of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from edgefuse.bundle.manifest import Binding, Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import QuantizeError
from edgefuse.export.stage import Array, Feeds, FeedSource, Lowered
from edgefuse.export.tflite import pack, quiet, unpack
from edgefuse.quantize import tflite_selection as selection
from edgefuse.quantize.tflite_selection import Operator, TfliteGraph
from edgefuse.runtime.backends.backend import InputPorts

_STATIC = Scheme(name="static_wi8_ai8", activation="s8")
_DYNAMIC = Scheme(name="dynamic_wi8_af32")


class TfliteQuantizer:
    """Applies schemes to LiteRT files; the interface of a file stays as it is, float32 and by the same names.

    `static_wi8_ai8` quantizes what `tflite_selection.static` chooses (activations signed: XNNPACK has no other
    kernels), `dynamic_wi8_af32` matrix products and plain convolutions; both store embedding tables in int8. `fp16`
    stores weights in half precision and computes in float32.
    """

    target = "tflite"

    def schemes(self, stage: StageSpec) -> tuple[Scheme, ...]:
        """Return the schemes worth trying, the most promising first. A frontend gets none.

        In encoders static ranges are faster wherever there are convolutions; fusion is matrix products over a few
        tokens, where dynamic ranges are as fast and closer to float.
        """
        if stage.role == "frontend":
            return ()
        return (_DYNAMIC, _STATIC) if stage.role in ("fusion", "decoder") else (_STATIC, _DYNAMIC)

    def apply(self, lowered: Lowered, scheme: Scheme, calibration: FeedSource) -> Lowered:
        """Quantize a float file; see `Quantizer.apply`.

        Raises:
            QuantizeError: if the scheme is not one of this target, finds nothing to quantize, or calibration fails.
        """
        _check(scheme)
        graph = TfliteGraph(lowered.data)
        ranges: dict[str, Range] = {}
        if scheme.name == "static_wi8_ai8":
            operators = selection.static(graph, scheme.exclude)
            tensors = {i: graph.names[i] for o in operators for i in (*graph.activations(o), *o.outputs)}
            if tensors:
                found = calibrate(lowered.data, lowered.inputs, tensors, calibration)
                ranges = {tensors[index]: span for index, span in found.items()}
            tables = selection.weighted(graph, selection.TABLES, scheme.exclude)
            rules = [*_rules(operators, _static(scheme)), *_rules(tables, _dynamic(scheme))]
        else:
            half = scheme.name == "fp16"
            kinds = selection.TABLES | (selection.WEIGHTED if half else selection.DYNAMIC)
            rules = _rules(selection.weighted(graph, kinds, scheme.exclude), _HALF if half else _dynamic(scheme))
        if not rules:
            raise QuantizeError(
                f"the scheme '{scheme.id}' finds nothing to quantize in this stage",
                got=f"operators {', '.join(sorted({operator.kind for operator in graph.operators})) or 'none'}",
                fix="leave the stage in float, or exclude fewer operators",
            )
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
    if scheme.calibrator != "minmax":
        raise QuantizeError("the target 'tflite' knows one calibrator", got=scheme.calibrator, expected="minmax")


def _quantize(data: bytes, rules: list[dict[str, Any]], ranges: Mapping[str, Range]) -> bytes:
    """Run ai-edge-quantizer and check what it wrote."""
    statistics = {name: {"min": np.array([low]), "max": np.array([high])} for name, (low, high) in ranges.items()}
    with quiet():
        from ai_edge_quantizer.quantizer import Quantizer

        try:
            result = Quantizer(data, rules).quantize(statistics or None, enable_progress_report=False)
        except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
            raise QuantizeError(
                "ai-edge-quantizer refuses the file",
                got=f"{type(error).__name__}: {error}",
                fix="exclude the operator named from the scheme",
            ) from error
    model = unpack(bytes(result.quantized_model))
    _check_scales(model)
    return pack(model)


def _check_scales(model: Any) -> None:
    """Raise `QuantizeError` if any scale is not a positive number; LiteRT runs such files and answers NaN."""
    for tensor in model.subgraphs[0].tensors:
        scale = None if tensor.quantization is None else tensor.quantization.scale
        if scale is not None and not (np.isfinite(scale).all() and (np.asarray(scale) > 0).all()):
            name = tensor.name.decode()
            raise QuantizeError(
                f"the tensor '{name}' has no usable quantization scale",
                got=f"{np.asarray(scale).ravel()[:4].tolist()}",
                expected="positive numbers",
                fix=f"exclude '{name}' from the scheme, or look for huge values in its calibration data",
            )


def _rules(operators: Iterable[Operator], rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one recipe entry per operator: ai-edge-quantizer finds it by kind and the name of its output."""
    return [{"regex": f"^{re.escape(o.name)};", "operation": o.kind, **rule} for o in operators]


def _weights(scheme: Scheme) -> dict[str, Any]:
    granularity = {"channel": "CHANNELWISE", "tensor": "TENSORWISE"}[scheme.granularity]
    return {"num_bits": 8, "symmetric": True, "granularity": granularity, "dtype": "INT"}


def _static(scheme: Scheme) -> dict[str, Any]:
    activations = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"}
    rule = _dynamic(scheme)
    return {**rule, "op_config": {**rule["op_config"], "activation_tensor_config": activations}}


def _dynamic(scheme: Scheme) -> dict[str, Any]:
    return {
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": {
            "weight_tensor_config": _weights(scheme),
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


Range = tuple[float, float]


def calibrate(
    data: bytes, bindings: tuple[Binding, ...], tensors: Mapping[int, str], calibration: FeedSource
) -> dict[int, Range]:
    """Return the smallest and largest value of tensors (index to name) over all calibration feeds.

    One sample is held at a time. Feeds that are shorter than the file's fixed shapes are padded with zeros, as the
    runtime does. Absent modalities are samples like any other.

    Raises:
        QuantizeError: if there are no feeds, or a value is NaN or infinite.
        InputError: if a feed does not fit the stage.
    """
    runner = _Runner(data, bindings)
    indices = list(tensors)
    low, high = np.full(len(indices), np.inf), np.full(len(indices), -np.inf)
    samples = 0
    for feeds in calibration():
        runner.run(feeds)
        values = [runner.value(index) for index in indices]
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
        _check_finite(low, high, [tensors[index] for index in indices], samples)
        samples += 1
    if samples == 0:
        raise QuantizeError(
            "static quantization has nothing to calibrate on",
            got="no feeds",
            expected="at least one",
            fix="give the recipe's data a calibration split with samples in it",
        )
    return {index: (float(a), float(b)) for index, a, b in zip(indices, low, high, strict=True)}


class _Runner:
    """The float file, opened so that every tensor can be read after a run."""

    def __init__(self, data: bytes, bindings: tuple[Binding, ...]) -> None:
        with quiet():
            self._interpreter: Any = Interpreter(
                model_content=data, num_threads=1, experimental_preserve_all_tensors=True
            )
            self._interpreter.allocate_tensors()
        (signature,) = self._interpreter.get_signature_list()
        details = self._interpreter.get_signature_runner(signature).get_input_details()
        self._indices = {name: int(detail["index"]) for name, detail in details.items()}
        self._ports = InputPorts(bindings)

    def run(self, feeds: Feeds) -> None:
        """Run once, after checking that the feeds are finite."""
        for port, value in feeds.items():
            if not np.isfinite(value).all():
                raise QuantizeError(
                    f"a calibration feed of the input '{port}' is not finite",
                    got="NaN or infinity",
                    fix="remove the sample or repair what computes the feature",
                )
        for tensor, value in self._ports.arrange(feeds).items():
            self._interpreter.set_tensor(self._indices[tensor], value)
        self._interpreter.invoke()

    def value(self, index: int) -> Array:
        """Return a copy of a tensor of the last run."""
        value: Array = self._interpreter.get_tensor(index)
        return value


def _check_finite(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], names: Iterable[str], sample: int
) -> None:
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.all():
        first = next(name for name, good in zip(names, finite, strict=True) if not good)
        raise QuantizeError(
            f"calibration met NaN or infinity in the tensor '{first}'",
            got=f"sample {sample}",
            expected="finite activations",
            fix="check the model in float32 on that sample",
        )
