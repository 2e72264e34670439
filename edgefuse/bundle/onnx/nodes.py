"""What an operator or input of an ONNX file says by itself: a domain, attributes, what it is declared to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from edgefuse.bundle.onnx.call import MAX_LISTED, Value
from edgefuse.bundle.onnx.messages import Message
from edgefuse.bundle.onnx.operators import MAX_SIZE, MICROSOFT
from edgefuse.bundle.onnx.tensors import MAX_RANK, Array, check_tensor
from edgefuse.bundle.refusal import RefusedError

_DOMAINS = ("", "ai.onnx", MICROSOFT)

MAX_REACH = 2**16
"""Of strides, paddings, windows and other attributes whose products with sizes must stay small."""


# Numbers of fields in onnx.proto.
_NAME, _FLOAT, _INTEGER, _TENSOR, _SUBGRAPH, _FLOATS, _INTEGERS = 1, 2, 3, 5, 6, 7, 8
_TENSORS, _SUBGRAPHS, _SPARSE_ATTRIBUTES = 10, 11, (22, 23)
_TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSION, _SIZE = 2, 1, 2, 1, 1

_AXES = frozenset(
    {
        *("axis", "axes", "batch_dims", "batch_axis", "time_axis", "gather_axis", "quantize_axis", "scan_input_axes"),
        "scan_output_axes",
    }
)
_COUNTS = frozenset(
    {
        *("kernel_shape", "strides", "dilations", "blocksize", "hidden_size", "group", "num_groups", "num_outputs"),
        *("q_num_heads", "kv_num_heads", "num_scan_inputs", "bits", "K", "N"),
    }
)
"""Attributes that sizes are divided by or that count something: of 32 bits, where kernels work with so many."""
_COUNTS_OR_NONE = frozenset({"num_heads", "rotary_embedding_dim", "block_size"})
"""Such where 0 stands for what is found out."""
_REACHING = frozenset(
    {
        *("kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape", "blocksize", "block_size"),
        *("hidden_size", "sample_size", "num_outputs"),
    }
)


def check_domain(operator: str, domain: str) -> None:
    """Check that an operator is of a domain that is known, and loads no compiled engine."""
    if operator == "EPContext":
        raise RefusedError("has a node 'EPContext', which loads a compiled engine")
    if domain not in _DOMAINS:
        raise RefusedError(f"has an operator {operator!a} of the unknown domain {domain!a}")


def check_declared(values: Sequence[Message]) -> None:
    """Check that no input, output or value of a graph is declared with a size below zero: OpenVINO divides by it."""
    for value in values:
        if any(size.integer(_SIZE) >= 2**63 for shape in _shapes(value) for size in shape.all(_DIMENSION)):
            raise RefusedError(f"declares {value.text(_NAME)!a} with a size below zero")


def _shapes(value: Message) -> list[Message]:
    """Return the shapes that a value is declared to have."""
    return [shape for kind in value.all(_TYPE) for tensor in kind.all(_TENSOR_TYPE) for shape in tensor.all(_SHAPE)]


def check_attributes(data: bytes, operator: str, attributes: Sequence[Message]) -> None:
    """Check what stands in the attributes of an operator, or raise `RefusedError`.

    Args:
        data: the whole file.
        operator: its name.
        attributes: messages of the file.
    """
    for attribute in attributes:
        name = attribute.text(_NAME)
        for tensor in (*attribute.all(_TENSOR), *attribute.all(_TENSORS)):
            check_tensor(tensor, data)
        if any(attribute.all(number) for number in _SPARSE_ATTRIBUTES):
            raise RefusedError("has a sparse tensor")
        integers = (*attribute.signed(data, _INTEGER, 1), *attribute.signed(data, _INTEGERS, MAX_LISTED))
        far = name in _REACHING and operator != "Pad" and any(abs(each) > MAX_REACH for each in integers)
        if far or (name in _AXES and any(abs(each) > MAX_RANK for each in integers)):
            raise RefusedError(f"has an operator {operator!a} whose {name} is {list(integers[:8])}")
        least = 1 if name in _COUNTS else 0
        if (least or name in _COUNTS_OR_NONE) and not all(least <= each < 2**31 for each in integers):
            said = f"{list(integers[:8])}, where {least} to {2**31 - 1} may stand"
            raise RefusedError(f"has an operator {operator!a} whose {name} is {said}")


def constant_of(data: bytes, attributes: Sequence[Message]) -> Value:
    """Return what a node Constant holds, as far as it is known."""
    for attribute in attributes:
        if attribute.all(_TENSOR):
            found = check_tensor(attribute.all(_TENSOR)[0], data)
            return Value(found.shape, found.values, constant=True)
        name = attribute.text(_NAME)
        if name in ("value_int", "value_ints"):
            number = _INTEGER if name == "value_int" else _INTEGERS
            values = np.array(attribute.signed(data, number, MAX_LISTED), np.int64)
            return Value(values.shape, values, constant=True) if name == "value_ints" else _one(values)
        if name in ("value_float", "value_floats"):
            spans = attribute.spans(_FLOAT if name == "value_float" else _FLOATS)
            raw = b"".join(data[begin:end] for begin, end in spans[: MAX_LISTED + 1])
            reals = np.frombuffer(raw[: len(raw) // 4 * 4], "<f4")
            return Value(reals.shape, reals, constant=True) if name == "value_floats" else _one(reals)
    raise RefusedError("has a Constant of no number")


def _one(values: Array) -> Value:
    return Value((), values.reshape(-1)[:1].reshape(()) if values.size else None, constant=True)


def filling(data: bytes, operator: str, attributes: Sequence[Message]) -> Array | None:
    """Return the tensor that a ConstantOfShape repeats.

    Args:
        data: the whole file.
        operator: its name; another one than ConstantOfShape repeats nothing.
        attributes: messages of the file.
    """
    tensors = [each.all(_TENSOR)[0] for each in attributes if operator == "ConstantOfShape" and each.all(_TENSOR)]
    return check_tensor(tensors[0], data).values if tensors else None


def graphs_in(attributes: Sequence[Message]) -> list[Message]:
    """Return the graphs that an operator runs."""
    return [graph for each in attributes for number in (_SUBGRAPH, _SUBGRAPHS) for graph in each.all(number)]


def by_name(attributes: Sequence[Message]) -> Mapping[str, Message]:
    """Return attributes by their names."""
    return MappingProxyType({each.text(_NAME): each for each in attributes})


def declared(value: Message, open_size: int, *, wanted: bool = False) -> Value:
    """Return what an input is declared to be.

    Args:
        value: the message that declares it.
        open_size: stands in place of sizes that are not fixed.
        wanted: refuse an input without a shape.
    """
    shapes = _shapes(value)
    if not shapes:
        if wanted:
            raise RefusedError(f"has an input {value.text(_NAME)!a} without a shape")
        return Value(())
    dimensions = shapes[0].all(_DIMENSION)
    if any(dimension.integers(_SIZE) and not dimension.integer(_SIZE) for dimension in dimensions):
        raise RefusedError(f"has an input {value.text(_NAME)!a} of nothing at all")
    sizes = [dimension.integer(_SIZE) for dimension in dimensions]
    if len(sizes) > MAX_RANK:
        raise RefusedError(f"has an input {value.text(_NAME)!a} of more than {MAX_RANK} axes")
    return Value(tuple(min(size, MAX_SIZE) if size else open_size for size in sizes))
