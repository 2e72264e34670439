"""Whether weights have the 2:4 pattern that TensorRT's sparse kernels skip: two zeros in every four inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_GROUP = 4


def has_two_of_four(model: ir.Model) -> bool:
    """Tell whether some layer of a graph has the pattern; TensorRT looks at each layer for itself."""
    return any(is_two_of_four(weight, axis) for weight, axis in weights(model))


def weights(model: ir.Model) -> list[tuple[npt.NDArray[Any], int]]:
    """Return the constant weights of convolutions and products, float or int8, each with the axis of its inputs."""
    found = []
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            array = _stored(node.inputs[1])
            if array is not None and array.ndim > 1:
                found.append((array, _input_axis(node, array.ndim)))
    return found


def is_two_of_four(weight: npt.NDArray[Any], axis: int) -> bool:
    """Tell whether at most two of each four neighbours along an axis differ from zero."""
    if weight.shape[axis] % _GROUP:
        return False
    groups = np.moveaxis(weight, axis, -1).reshape(-1, _GROUP)
    return bool((np.count_nonzero(groups, axis=1) <= _GROUP // 2).all())


def _stored(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the constant behind a value, behind a Cast or DequantizeLinear too."""
    while value is not None and value.const_value is None:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in ("Cast", "DequantizeLinear") else None
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _input_axis(node: ir.Node, rank: int) -> int:
    if node.op_type == "MatMul":
        return rank - 2
    transposed = node.attributes.get_int("transB", 0) == 1
    return 1 if node.op_type == "Conv" or transposed else 0
