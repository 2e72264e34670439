"""Decide which nodes of an ONNX graph compute in int8, and which values exist as int8.

What pays: convolutions and matrix products by a constant, and what lies between two of them (residual additions,
pools, concatenations). Layer norms, softmax, GELU, additions between transformer layers and products of two activations
stay float: there int8 costs accuracy and more conversions than it saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.onnx.graph import constant, only_use
from edgefuse.quantize.schemes import SMALLEST_PRODUCT

_BETWEEN = frozenset({"Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class Plan:
    """The nodes and values that become int8.

    Attributes:
        nodes: computed in int8, in the order of the graph.
        values: quantized, in the order of the graph.
    """

    nodes: tuple[ir.Node, ...]
    values: tuple[ir.Value, ...]


def plan(model: ir.Model, scheme: Scheme) -> Plan:
    """Choose nodes and values of a graph for a static scheme."""
    nodes: list[ir.Node] = []
    resident: set[ir.Value] = set()
    values: dict[ir.Value, None] = {}
    for node in model.graph:
        if excluded(node, scheme) or not _pays(node, resident):
            continue
        nodes.append(node)
        values.update(dict.fromkeys(activation_inputs(node)))
        if node.op_type not in ("Gemm", "MatMul"):  # these give float where float is wanted
            result = after_activation(node)
            resident.add(result)
            values[result] = None
    return Plan(tuple(nodes), tuple(values))


def excluded(node: ir.Node, scheme: Scheme) -> bool:
    """Tell whether a scheme leaves a node float, by a pattern of its operator or name."""
    return any(fnmatchcase(node.op_type, p) or fnmatchcase(node.name or "", p) for p in scheme.exclude)


def lstm_weights(node: ir.Node) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Return the constant weights of an LSTM that can be int8, those of its inputs and of its states.

    Both are float32 [directions, 4 * hidden, width]. None for any other node.
    """
    if node.op_type != "LSTM" or node.domain or node.attributes.get_int("layout", 0) != 0:
        return None
    weights = [constant(value) for value in node.inputs[1:3]]
    first, second = weights
    return None if first is None or second is None else (first, second)


def weight_of(node: ir.Node) -> npt.NDArray[Any] | None:
    """Return the constant weights of a Conv, Gemm or MatMul that can be int8; None for any other node."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or constant(node.inputs[0]) is not None:
        return None
    if node.op_type == "Conv":
        return weight
    if node.op_type == "Gemm" and not _plain_gemm(node):
        return None
    return weight if weight.ndim == 2 and weight.size >= SMALLEST_PRODUCT else None


def weight_axis(node: ir.Node) -> int:
    """Return the axis of the output channels in a node's weights."""
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return 0 if node.op_type == "Conv" or transposed else 1


def activation_inputs(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the inputs that are quantized as activations."""
    inputs = node.inputs[:1] if node.op_type in ("Conv", "Gemm", "MatMul") else node.inputs
    return tuple(value for value in inputs if value is not None)


def absorbed_activation(node: ir.Node) -> ir.Node | None:
    """Return the Relu or Clip behind a node that saturating to int8 does as well, if it is the only user."""
    use = only_use(node.outputs[0])
    if use is None or use[1] != 0 or use[0].op_type not in _ACTIVATIONS:
        return None
    activation = use[0]
    fixed = all(constant(bound) is not None for bound in activation.inputs[1:] if bound is not None)
    return activation if fixed else None


def after_activation(node: ir.Node) -> ir.Value:
    """Return the value that a node gives, behind the activation that it absorbs."""
    activation = absorbed_activation(node)
    return (activation or node).outputs[0]


def _pays(node: ir.Node, resident: set[ir.Value]) -> bool:
    if weight_of(node) is not None:
        return True
    return node.op_type in _BETWEEN and len(node.inputs) > 0 and all(value in resident for value in node.inputs)


def _plain_gemm(node: ir.Node) -> bool:
    attributes = node.attributes
    scaled = attributes.get_float("alpha", 1.0) != 1.0 or attributes.get_float("beta", 1.0) != 1.0
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(bias)
    if scaled or attributes.get_int("transA", 0) != 0 or (bias is not None and array is None):
        return False
    return array is None or array.ndim == 1
