"""Biases of a TFLite graph in the one shape that every kernel takes."""

from __future__ import annotations

import copy
import math
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils

_POSITIONS = {"FULLY_CONNECTED": 2, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "CONV_3D": 2, "TRANSPOSE_CONV": 3}
"""Which input of a product is its bias."""


def flatten_biases(model: Any) -> None:
    """Give every bias one dimension; the model is changed in place.

    The converter folds the scaling of a single value (a regression in millimetres, say) into the weights before it, and
    leaves a bias of the shape [1, 1]: as many numbers, which not every runtime takes.

    Args:
        model: a `ModelT` object of the schema.
    """
    for graph in model.subgraphs:
        places = [
            (operator, position)
            for operator in graph.operators
            if (position := _POSITIONS.get(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex), 0))
            and position < len(operator.inputs)
            and operator.inputs[position] >= 0
        ]
        biases = {(id(operator), position) for operator, position in places}
        others = {
            int(index)
            for operator in graph.operators
            for position, index in enumerate(operator.inputs)
            if (id(operator), position) not in biases
        }
        for operator, position in places:
            index = int(operator.inputs[position])
            tensor = graph.tensors[index]
            if len(tensor.shape) <= 1 or not _is_constant(model, tensor):
                continue
            if index in others or index in graph.outputs:
                tensor = copy.copy(tensor)
                operator.inputs[position] = len(graph.tensors)
                graph.tensors.append(tensor)
            tensor.shape, tensor.shapeSignature = [math.prod(int(size) for size in tensor.shape)], None


def _is_constant(model: Any, tensor: Any) -> bool:
    return model.buffers[tensor.buffer].data is not None
