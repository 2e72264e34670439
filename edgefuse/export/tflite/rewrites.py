"""Rewrite a traced stage into operators that LiteRT runs fast, before litert-torch sees it.

LiteRT's kernels (XNNPACK) want channels last, few operators and no reshapes between them. litert-torch gives image
networks that form, but not what stands around attention and sound: a `Conv1d` becomes a convolution between two
transposes and two reshapes with its batch norm left outside, a layer norm becomes twelve operators, a strided
convolution over raw samples a depthwise one without a fast kernel. Each rewrite here keeps the function (to rounding)
and works on the operators of `torch.export`, whatever the module that they come from.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgefuse.export.tflite.editing import (
    add_constant,
    are_constants,
    call,
    calls,
    constant,
    frames_of,
    linear,
    replace,
)
from edgefuse.export.tflite.spectrum import lower_spectrum
from edgefuse.export.torch.inlining import argument

aten = torch.ops.aten

# The most pieces that a window over raw samples is cut into; beyond it the copies cost more than they save.
_MAX_CHUNKS = 4
# Positions and defaults of stride, padding and dilation among the arguments of a convolution.
_CONV1D_SIZES = ((3, 1), (4, 0), (5, 1))


def rewrite(program: ExportedProgram) -> GraphModule:
    """Return a module that computes the same as a program, in operators that LiteRT runs fast."""
    module = program.module(check_guards=False)
    for apply in (fold_batch_norm, lower_spectrum, lower_conv1d, lower_layer_norm, lower_matmul, sink_transposes):
        apply(module)
        module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def fold_batch_norm(module: GraphModule) -> None:
    """Fold each batch norm that follows a convolution into its weights and bias."""
    for norm in calls(module, aten.batch_norm.default):
        conv, gamma, beta, mean, variance, training, _, eps = norm.args[:8]
        bias = argument(conv, 2, None)
        if training or conv.target not in (aten.conv1d.default, aten.conv2d.default) or len(conv.users) > 1:
            continue
        if not are_constants(conv.args[1], bias, gamma, beta, mean, variance):
            continue
        weight, mean, variance = constant(module, conv.args[1]), constant(module, mean), constant(module, variance)
        scale = torch.rsqrt(variance + eps)
        scale = scale if gamma is None else scale * constant(module, gamma)
        shift = (-mean if bias is None else constant(module, bias) - mean) * scale
        shift = shift if beta is None else shift + constant(module, beta)
        with module.graph.inserting_before(conv):
            conv.args = (
                conv.args[0],
                add_constant(module, weight * scale.reshape(-1, *[1] * (weight.dim() - 1))),
                add_constant(module, shift),
                *conv.args[3:],
            )
        replace(norm, conv)


def lower_conv1d(module: GraphModule) -> None:
    """Turn convolutions over [B, C, T] into ones with channels last: matrix products where they are that."""
    for conv in calls(module, aten.conv1d.default):
        bias = argument(conv, 2, None)
        if conv.meta["val"].dim() != 3 or argument(conv, 6, 1) != 1 or not are_constants(conv.args[1], bias):
            continue
        stride, padding, dilation = (argument(conv, position, [default])[0] for position, default in _CONV1D_SIZES)
        x, weight = conv.args[0], constant(module, conv.args[1])
        kernel = weight.shape[2]
        with module.graph.inserting_before(conv):
            if weight.shape[1] == 1 and dilation == 1 and padding == 0 and kernel <= _MAX_CHUNKS * stride:
                frames = frames_of(module.graph, x, conv.meta["val"].shape[2], kernel, stride)
                y = linear(module, frames, weight[:, 0], bias)
            else:
                steps = call(module.graph, aten.transpose.int, x, 1, 2)
                steps.meta["val"] = x.meta["val"].transpose(1, 2)
                if kernel == 1 and stride == 1 and padding == 0:
                    y = linear(module, steps, weight[:, :, 0], bias)
                else:
                    y = _channels_last_conv(module, steps, weight, bias, stride, padding, dilation)
            result = call(module.graph, aten.transpose.int, y, 1, 2)
        replace(conv, result)


def lower_layer_norm(module: GraphModule) -> None:
    """Spell out layer norms over the last axis, with weight and bias moved into the linear layers that follow."""
    for norm in calls(module, aten.layer_norm.default):
        x, shape = norm.args[:2]
        if len(shape) != 1:
            continue
        gamma, beta = (argument(norm, position, None) for position in (2, 3))
        graph = module.graph
        with graph.inserting_before(norm):
            centred = call(graph, aten.sub.Tensor, x, call(graph, aten.mean.dim, x, [-1], True))
            squares = call(graph, aten.mul.Tensor, centred, centred)
            variance = call(graph, aten.mean.dim, squares, [-1], True)
            deviation = call(graph, aten.rsqrt.default, call(graph, aten.add.Tensor, variance, argument(norm, 4, 1e-5)))
            y = call(graph, aten.mul.Tensor, centred, deviation)
        if not _move_into_linear(module, norm, gamma, beta):
            with graph.inserting_before(norm):
                y = y if gamma is None else call(graph, aten.mul.Tensor, y, gamma)
                y = y if beta is None else call(graph, aten.add.Tensor, y, beta)
        replace(norm, y)


def lower_matmul(module: GraphModule) -> None:
    """Run products of equal batches in three dimensions, with the transpose next to the product that absorbs it."""
    graph = module.graph
    for product in calls(module, aten.matmul.default):
        a, b = product.args
        shape_a, shape_b = tuple(a.meta["val"].shape), tuple(b.meta["val"].shape)
        if len(shape_a) < 4 or shape_a[:-2] != shape_b[:-2]:
            continue
        batch = math.prod(shape_a[:-2])
        with graph.inserting_before(product):
            left = call(graph, aten.reshape.default, a, [batch, *shape_a[-2:]])
            if _transposes_last_axes(b):
                rows = call(graph, aten.reshape.default, b.args[0], [batch, shape_b[-1], shape_b[-2]])
                right = call(graph, aten.transpose.int, rows, 1, 2)
            else:
                right = call(graph, aten.reshape.default, b, [batch, *shape_b[-2:]])
            flat = call(graph, aten.bmm.default, left, right)
            result = call(graph, aten.reshape.default, flat, [*shape_a[:-1], shape_b[-1]])
        replace(product, result)


def _transposes_last_axes(node: Any) -> bool:
    rank = node.meta["val"].dim()
    return node.target is aten.transpose.int and sorted(axis % rank for axis in node.args[1:]) == [rank - 2, rank - 1]


def _channels_last_conv(
    module: GraphModule, steps: Node, weight: Tensor, bias: Node | None, stride: int, padding: int, dilation: int
) -> Any:
    """Convolve [B, T, C] over time as an image of height one; the permutations cancel in litert-torch."""
    graph = module.graph
    image = call(graph, aten.permute.default, call(graph, aten.unsqueeze.default, steps, 1), [0, 3, 1, 2])
    kernel = add_constant(module, weight.unsqueeze(2))
    y = call(graph, aten.conv2d.default, image, kernel, bias, [1, stride], [0, padding], [1, dilation])
    return call(graph, aten.squeeze.dim, call(graph, aten.permute.default, y, [0, 2, 3, 1]), 1)


def _move_into_linear(module: GraphModule, norm: Node, gamma: Node | None, beta: Node | None) -> bool:
    """Fold y * gamma + beta into the linear layers that use it, if nothing else does."""
    users = list(norm.users)
    if not users or any(user.target is not aten.linear.default or user.args[0] is not norm for user in users):
        return False
    if not all(are_constants(gamma, beta, user.args[1], argument(user, 2, None)) for user in users):
        return False
    for layer in users:
        weight, bias = constant(module, layer.args[1]), argument(layer, 2, None)
        with module.graph.inserting_before(layer):
            if beta is not None:
                shift = weight @ constant(module, beta)
                shift = shift if bias is None else shift + constant(module, bias)
                bias = add_constant(module, shift)
            scaled = weight if gamma is None else weight * constant(module, gamma)
            layer.args = (norm, add_constant(module, scaled), bias)
    return True


_ELEMENTWISE = frozenset(
    {
        aten.add.Tensor,
        aten.clamp.default,
        aten.elu.default,
        aten.gelu.default,
        aten.hardswish.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.mul.Tensor,
        aten.relu.default,
        aten.relu6.default,
        aten.sigmoid.default,
        aten.silu.default,
        aten.sub.Tensor,
        aten.tanh.default,
    }
)
_MOVABLE = _ELEMENTWISE | {aten.pad.default, aten.slice.Tensor, aten.transpose.int}


def sink_transposes(module: GraphModule) -> None:
    """Move transposes behind what works on each element, slices or pads, and cancel those that meet."""
    calls: list[Any] = [node for node in module.graph.nodes if node.op == "call_function" and node.args]
    for node in calls:
        source = node.args[0]
        axes = _swapped_axes(source)
        if axes is None or not all(user.target in _MOVABLE for user in source.users):
            continue
        with module.graph.inserting_before(node):
            if node.target is aten.transpose.int:
                result = source.args[0] if _swapped_axes(node) == axes else None
            else:
                moved = _before_transpose(module.graph, node, axes)
                result = None if moved is None else module.graph.call_function(aten.transpose.int, (moved, *axes))
        if result is not None:
            result.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(result)
            module.graph.erase_node(node)


def _before_transpose(graph: Graph, node: Any, axes: tuple[int, int]) -> Node | None:
    """Return what a node computes, made from inputs before their transpose, or None if it does not allow that."""
    rank = node.meta["val"].dim()
    if node.target in _ELEMENTWISE:
        tensors = [arg for arg in node.args if isinstance(arg, Node)]
        if any(_swapped_axes(arg) != axes or arg.meta["val"].dim() != rank for arg in tensors):
            return None
        args: tuple[Any, ...] = tuple(arg.args[0] if isinstance(arg, Node) else arg for arg in node.args)
        return graph.call_function(node.target, args, dict(node.kwargs))
    swap = {axes[0]: axes[1], axes[1]: axes[0]}
    x, rest = node.args[0].args[0], node.args[1:]
    if node.target is aten.slice.Tensor and rest:
        axis = rest[0] % rank
        return graph.call_function(node.target, (x, swap.get(axis, axis), *rest[1:]))
    if node.target is aten.pad.default and "constant" in (*rest[1:], "constant")[:1]:
        # Pairs of sizes, the last axis first.
        flat = [*rest[0], *[0] * (2 * rank - len(rest[0]))]
        pairs = [flat[2 * (rank - 1 - axis) :][:2] for axis in range(rank)]
        sizes = [size for axis in reversed(range(rank)) for size in pairs[swap.get(axis, axis)]]
        return graph.call_function(node.target, (x, sizes, *rest[1:]))
    return None


def _swapped_axes(node: Any) -> tuple[int, int] | None:
    """Return the two axes that a node swaps, the smaller first, or None if it does something else."""
    if not isinstance(node, Node) or node.target is not aten.transpose.int or "val" not in node.meta:
        return None
    axes: list[Any] = list(node.args[1:])
    first, second = sorted(int(axis % node.meta["val"].dim()) for axis in axes)
    return first, second
