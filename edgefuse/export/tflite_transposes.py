"""Move transposes through a traced graph until they meet their inverse or the end."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

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
