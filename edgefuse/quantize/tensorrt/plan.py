"""Where QuantizeLinear and DequantizeLinear stand so that TensorRT fuses them away.

NVIDIA's rules for explicit quantization (TensorRT documentation, "Q/DQ Layer-Placement Recommendations"): quantize all
inputs of convolutions and of products by a constant; leave their outputs alone, which are quantized as the input of the
next layer, if at all; quantize the other input of a residual sum behind a convolution, whose kernel then adds in int8;
fuse neither batch norms nor activations in the graph. Pools and concatenations need nothing: TensorRT moves the
QuantizeLinear behind them to their front. Sums and layer norms of transformers stay out of int8: with them, a speech
encoder's cosine with its float twin fell from 0.98 to 0.61.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from edgefuse.bundle.scheme import Scheme
from edgefuse.quantize.onnx.graph import only_use
from edgefuse.quantize.onnx.plan import excluded, weight_of

Use: TypeAlias = tuple[ir.Node, int]
"""A node, and which of its inputs."""


@dataclass(frozen=True)
class Placement:
    """The nodes and values that become int8.

    Attributes:
        layers: with weights, in the order of the graph.
        uses: the activations to quantize, in the order of the graph, each with the inputs that take it in int8.
    """

    layers: tuple[ir.Node, ...]
    uses: Mapping[ir.Value, tuple[Use, ...]]


def place(model: ir.Model, scheme: Scheme) -> Placement:
    """Choose the layers and activations of a graph for a static scheme."""
    layers = [node for node in model.graph if weight_of(node) is not None and not excluded(node, scheme)]
    convolutions = {node.outputs[0]: order for order, node in enumerate(layers) if node.op_type == "Conv"}
    uses: dict[ir.Value, list[Use]] = {}
    known = set(layers)
    for node in model.graph:
        index = 0 if node in known else _skip_input(node, convolutions) if not excluded(node, scheme) else None
        value = node.inputs[index] if index is not None else None
        if value is not None and index is not None:
            uses.setdefault(value, []).append((node, index))
    return Placement(tuple(layers), {value: tuple(takers) for value, takers in uses.items()})


def _skip_input(node: ir.Node, convolutions: Mapping[ir.Value, int]) -> int | None:
    """Return which input of a sum to quantize: the one that a convolution's kernel adds to its own result."""
    if node.op_type != "Add" or any(value is None or value.const_value is not None for value in node.inputs):
        return None
    first, second = node.inputs
    if first is None or second is None or first is second:
        return None
    orders = [convolutions[value] if value in convolutions and only_use(value) else -1 for value in (first, second)]
    if max(orders) < 0:
        return None
    return 1 if orders[0] > orders[1] else 0  # of two convolutions the later one adds, when both results are there
