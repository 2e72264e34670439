"""Check one operator of a TFLite graph: that it is known, and that types, options and shapes follow from its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from edgefuse.bundle.tflite.call import MAX_LIST, Call, Option
from edgefuse.bundle.tflite.flatbuffer import RefusedError, Table
from edgefuse.bundle.tflite.kinds import KINDS, Kind
from edgefuse.bundle.tflite.schema import Graph, Model, Operator

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
_QUANTIZED = ("int8", "uint8", "int16")
# These take quantized values for what they are; all others compute with them, and need their scales.
_MOVING = frozenset(
    {
        *(
            "BROADCAST_TO",
            "CAST",
            "CONCATENATION",
            "DYNAMIC_UPDATE_SLICE",
            "EXPAND_DIMS",
            "GATHER",
            "GATHER_ND",
            "PACK",
        ),
        *("PAD", "RESHAPE", "REVERSE_V2", "SELECT", "SELECT_V2", "SLICE", "SPLIT", "SPLIT_V", "SQUEEZE"),
        *("STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK", "WHILE"),
    }
)
# Where four-bit weights and weights with scales in blocks may stand: kind and place.
_PACKED = frozenset({("FULLY_CONNECTED", 1), ("CONV_2D", 1), ("EMBEDDING_LOOKUP", 1), ("DEQUANTIZE", 0)})
_BLOCKS = frozenset({("FULLY_CONNECTED", 1), ("EMBEDDING_LOOKUP", 1)})


@dataclass(frozen=True)
class _Field:
    name: str
    number: int
    kind: str
    default: float
    listed: bool


_BY_CODE = MappingProxyType({kind.code: (name, kind) for name, kind in KINDS.items()})


def check_operator(model: Model, graph: Graph, operator: Operator) -> Call:
    """Return an operator with its tensors (whose indices exist) and options, or raise `RefusedError`."""
    if operator.code not in _BY_CODE:
        raise RefusedError(f"has an operator of the code {operator.code}, which is none that edgefuse writes")
    name, kind = _BY_CODE[operator.code]
    inputs = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
    outputs = [graph.tensors[index] for index in operator.outputs]
    call = Call(model, name, inputs, outputs, _options(name, kind, operator))
    _check_types(call, *_signature(kind.types))
    _check_scales(call)
    found = [output.shape for output in outputs]
    expected = [tuple(shape) for shape in kind.rule(call)]
    call.need(found == expected, f"outputs are {_listed(found)}, expected {_listed(expected)}")
    return call


def _listed(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


@cache
def fields(options: str) -> tuple[_Field, ...]:
    """Return what `Kind.options` lists."""
    found = []
    for each in options.split():
        name, spelled = each.split(":")
        spelled, _, default = spelled.partition("=")
        kind = spelled.strip("0123456789[]")
        number = spelled.partition("[")[0].rstrip(kind)
        found.append(_Field(name, int(number), kind, float(default or 0), "[" in spelled))
    return tuple(found)


def _options(name: str, kind: Kind, operator: Operator) -> dict[str, Option]:
    """Return an operator's options with the schema's defaults in place of what is absent."""
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
            letter = letter[0]
            allowed = _TYPES.get(letter) or ((bound.setdefault(letter, tensor.dtype),) if letter != "*" else ())
            call.need(not allowed or tensor.dtype in allowed, f"{which} {position} is {tensor.dtype}")


def _check_scales(call: Call) -> None:
    """Check that what computes with quantized values has one scale for each tensor, but for the weights."""
    for position, tensor in enumerate((*call.inputs, *call.outputs)):
        if tensor is None:
            continue
        place, scales = (call.kind, position), len(tensor.quantization.scales)
        call.need(tensor.dtype != "int4" or place in _PACKED, f"tensor {position} has four bits")
        call.need(tensor.quantization.blocks is None or place in _BLOCKS, f"tensor {position} has scales in blocks")
        call.need(scales < 2 or tensor.constant is not None, f"tensor {position} has {scales} scales and is computed")
        if tensor.dtype in _QUANTIZED and call.kind not in _MOVING:
            blocks = tensor.quantization.blocks is not None
            call.need(scales or blocks, f"tensor {position} of {tensor.dtype} has no scale")
