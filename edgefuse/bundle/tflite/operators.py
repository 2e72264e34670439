"""Check one operator of a TFLite graph: that it is known, and that types, options and shapes follow from its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from edgefuse.bundle.refusal import RefusedError
from edgefuse.bundle.tflite.call import MAX_LIST, Call, Option
from edgefuse.bundle.tflite.flatbuffer import Table
from edgefuse.bundle.tflite.kinds import KINDS, Kind
from edgefuse.bundle.tflite.quantization import MAX_SCALE
from edgefuse.bundle.tflite.schema import Graph, Model, Operator, Tensor

_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "N": ("int32",),
        "I": ("int32", "int64"),
        "J": ("int16", "int32", "int64"),
        "B": ("bool",),
        "F": ("float32",),
        "C": ("complex64",),
    }
)
_COMPUTED = ("float32", "int32", "int64")
_QUANTIZED = ("int8", "uint8", "int16")
# What computes with quantized values; everything else takes them for what they are, or not at all.
_ON_QUANTIZED = frozenset(
    {
        *("ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE", "EMBEDDING_LOOKUP"),
        *("FULLY_CONNECTED", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "QUANTIZE", "RELU", "RELU6", "RESIZE_BILINEAR"),
        *("RESIZE_NEAREST_NEIGHBOR", "SOFTMAX", "SUB", "TANH", "TRANSPOSE_CONV"),
    }
)
# Where four-bit weights and weights with scales in blocks may stand: kind and place.
_PACKED = frozenset({("FULLY_CONNECTED", 1), ("CONV_2D", 1), ("EMBEDDING_LOOKUP", 1), ("DEQUANTIZE", 0)})
_BLOCKS = frozenset({("FULLY_CONNECTED", 1), ("EMBEDDING_LOOKUP", 1)})
# Where a constant may have a scale for each channel: weights, and the biases that are added to their products.
_CHANNELS = _PACKED | {
    *(("CONV_2D", 2), ("DEPTHWISE_CONV_2D", 1), ("DEPTHWISE_CONV_2D", 2), ("FULLY_CONNECTED", 2)),
    *(("TRANSPOSE_CONV", 1), ("TRANSPOSE_CONV", 3)),
}
_LAST_ACTIVATION = 3  # none, relu, relu from -1 to 1, relu6; LiteRT does not compute those behind


@dataclass(frozen=True)
class _Field:
    name: str
    number: int
    kind: str
    default: float
    listed: bool


_BY_CODE = MappingProxyType({kind.code: (name, kind) for name, kind in KINDS.items()})


def check_operator(model: Model, graph: Graph, operator: Operator) -> Call:
    """Return an operator with its tensors (whose indices exist) and options, or raise `RefusedError`.

    Args:
        model: the whole file.
        graph: that the operator is in.
        operator: to check.
    """
    if operator.code not in _BY_CODE:
        raise RefusedError(f"has an operator of the code {operator.code}, which is none that edgefuse writes")
    name, kind = _BY_CODE[operator.code]
    inputs = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
    outputs = [graph.tensors[index] for index in operator.outputs]
    call = Call(model, name, inputs, outputs, options_of(name, kind, operator))
    _check_types(call, *_signature(kind.types))
    _check_scales(call)
    if "fused_activation_function" in call.options:
        call.integer("fused_activation_function", 0, _LAST_ACTIVATION)
    found = [output.shape for output in outputs]
    expected = [tuple(shape) for shape in kind.rule(call)]
    if found != expected:  # not by `need` alone: the sentence would be made for every operator
        call.need(None, f"outputs are {_listed(found)}, expected {_listed(expected)}")
    return call


def _listed(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


@cache
def fields(options: str) -> tuple[_Field, ...]:
    """Return the fields that `Kind.options` lists."""
    found = []
    for each in options.split():
        name, spelled = each.split(":")
        spelled, _, default = spelled.partition("=")
        kind = spelled.strip("0123456789[]")
        number = spelled.partition("[")[0].rstrip(kind)
        found.append(_Field(name, int(number), kind, float(default or 0), "[" in spelled))
    return tuple(found)


def options_of(name: str, kind: Kind, operator: Operator) -> dict[str, Option]:
    """Return an operator's options with the schema's defaults in place of what is absent.

    Args:
        name: the operator's.
        kind: its entry among the known operators.
        operator: that has the options.
    """
    used, unused = (operator.options2, operator.options) if kind.second else (operator.options, operator.options2)
    (number, table), (other, _) = used, unused
    if other or number not in (0, kind.union):
        raise RefusedError(f"has an operator {name} with the options of another")
    table = table if number else None
    return {field.name: _option(table, field) for field in fields(kind.options)}


def _option(table: Table | None, field: _Field) -> Option:
    if field.listed:
        return table.integers(field.number, MAX_LIST, field.kind) if table else ()
    if field.kind == "f":
        return table.scalar(field.number, "f", field.default) if table else field.default
    return table.integer(field.number, field.kind, int(field.default)) if table else int(field.default)


@cache
def _signature(types: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    before, _, behind = types.partition(">")
    return tuple(before.split(",")), tuple(behind.split(","))


def _check_types(call: Call, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Check how many tensors there are and of which types."""
    bound: dict[str, str] = {}
    for which, tensors, letters in (("input", call.inputs, inputs), ("output", call.outputs, outputs)):
        repeated = letters[-1].endswith("+")
        least = sum(not letter.endswith("?") for letter in letters)
        call.need(least <= len(tensors) and (repeated or len(tensors) <= len(letters)), f"{which}s are {len(tensors)}")
        for position, tensor in enumerate(tensors):
            letter = letters[min(position, len(letters) - 1)]
            if tensor is None:
                call.need(letter.endswith("?"), f"{which} {position} is left out")
                continue
            call.need(tensor.dtype in _allowed(call, letter[0], bound, tensor), f"{which} {position} is {tensor.dtype}")


def _allowed(call: Call, letter: str, bound: dict[str, str], tensor: Tensor) -> tuple[str, ...]:
    """Return the types that a letter stands for; the first tensor of a small letter decides about the others."""
    if letter in _TYPES:
        return _TYPES[letter]
    if letter == "x" and letter not in bound:
        bound[letter] = tensor.dtype
        return (*_COMPUTED, *_QUANTIZED) if call.kind in _ON_QUANTIZED else _COMPUTED
    return (bound.setdefault(letter, tensor.dtype) if letter != "*" else tensor.dtype,)


def _check_scales(call: Call) -> None:
    """Check that what computes with quantized values has one scale for each tensor, but for the weights."""
    for position, tensor in enumerate((*call.inputs, *call.outputs)):
        if tensor is None:
            continue
        place, scales, blocks = (call.kind, position), len(tensor.quantization.scales), tensor.quantization.blocks
        call.need(tensor.dtype != "int4" or place in _PACKED, f"tensor {position} has four bits")
        call.need(blocks is None or place in _BLOCKS, f"tensor {position} has scales in blocks")
        by_channel = tensor.constant is not None and place in _CHANNELS
        call.need(scales < 2 or by_channel, f"tensor {position} has {scales} scales")
        if tensor.dtype in _QUANTIZED and call.kind in _ON_QUANTIZED:
            call.need(scales or blocks, f"tensor {position} of {tensor.dtype} has no scale")
    if call.outputs[0].dtype in _QUANTIZED and call.kind in ("ADD", "SUB", "SOFTMAX"):
        _check_ratio(call)


def _check_ratio(call: Call) -> None:
    """Check scales that LiteRT makes a multiplier below or above 1 of: where it is none, it aborts."""
    largest = max(float(each.quantization.scales[0]) for each in call.inputs if each)
    if call.kind == "SOFTMAX":
        beta = call.options["beta"]
        call.need(isinstance(beta, float) and 1 < beta * largest * 2**26 < MAX_SCALE, f"scale is {largest:g}")
        return
    room = 2**14 if call.outputs[0].dtype == "int16" else 2**19
    call.need(largest / call.outputs[0].quantization.scales[0] < room, f"scale is below {largest:g} / {room}")
