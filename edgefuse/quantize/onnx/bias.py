"""Move the biases of an int8 ONNX graph by the mean error that quantization makes in each channel.

Rounded weights and saturated activations do not only add noise, they shift the mean of a layer's output, and the
shifts add up from layer to layer. Going through the graph in order, each layer's bias takes up what is left of its own
shift once those before it are corrected. It costs nothing at run time.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721,
section 4.2 and appendix D (the empirical form); Banner et al., arXiv:1810.05723, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefuse.bundle.manifest import Binding
from edgefuse.quantize.onnx.calibration import channel_means
from edgefuse.quantize.onnx.graph import add_constant, constant
from edgefuse.quantize.onnx.plan import Plan, weight_axis, weight_of
from edgefuse.stages.stage import Feeds, FeedSource

Means = Mapping[str, npt.NDArray[np.float64]]

SAMPLES = 64
"""Feeds over which means are taken, at most: every layer takes a pass over them."""


def give_biases(graph: ir.Graph, plan: Plan) -> None:
    """Give a bias of zero to every convolution and Gemm of a plan that has none."""
    for node in plan.nodes:
        weight = weight_of(node)
        if weight is None or node.op_type == "MatMul" or (len(node.inputs) > 2 and node.inputs[2] is not None):
            continue
        zeros = np.zeros(weight.shape[weight_axis(node)], np.float32)
        bias = add_constant(graph, f"{node.name}/zero_bias", zeros)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, bias)


def float_means(model: ir.Model, plan: Plan, inputs: tuple[Binding, ...], calibration: FeedSource) -> Means:
    """Return the mean output of every layer of a plan in each channel, by node name; the graph is still float.

    Args:
        model: the float graph.
        plan: which layers compute in int8.
        inputs: bindings of the file.
        calibration: starts a pass over feeds.
    """
    outputs = {node.name or "": node.outputs[0].name or "" for node in _layers(plan)}
    axes = {node.outputs[0].name or "": _channel_axis(node) for node in _layers(plan)}
    means = channel_means(model, axes, inputs, _first(calibration))
    return {name: means[output] for name, output in outputs.items()}


def correct_biases(
    model: ir.Model, plan: Plan, wanted: Means, inputs: tuple[Binding, ...], calibration: FeedSource
) -> None:
    """Correct the int32 biases of a quantized graph, in place, so that layers give the wanted means.

    Args:
        model: the graph after `insert_qdq`.
        plan: that was inserted.
        wanted: what `float_means` found.
        inputs: how the feeds' ports are called in the graph.
        calibration: starts a pass; its first `SAMPLES` are used.
    """
    for node in _layers(plan):
        output = node.outputs[0].name or ""
        found = channel_means(model, {output: _channel_axis(node)}, inputs, _first(calibration))[output]
        dequantize = node.inputs[2].producer() if node.inputs[2] is not None else None
        if dequantize is None:
            continue
        bias, scale = dequantize.inputs[0], constant(dequantize.inputs[1])
        integers = constant(bias)
        if bias is None or integers is None or scale is None:
            continue
        moved = integers + np.rint((wanted[node.name or ""] - found) / scale)
        limits = np.iinfo(np.int32)
        bias.const_value = ir.tensor(np.clip(moved, limits.min, limits.max).astype(np.int32), name=bias.name)


def _layers(plan: Plan) -> list[ir.Node]:
    return [node for node in plan.nodes if node.op_type in ("Conv", "Gemm")]


def _channel_axis(node: ir.Node) -> int:
    return 1 if node.op_type == "Conv" else -1


def _first(calibration: FeedSource) -> FeedSource:
    def start() -> Iterator[Feeds]:
        return islice(calibration(), SAMPLES)

    return start
