"""Read and change a graph of `torch.export`, its module's parameters and buffers included."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten


def calls(module: GraphModule, target: Callable[..., Any]) -> Iterator[Any]:
    """Yield the calls of an operator with positional arguments only, which is how `torch.export` writes them."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and node.target is target]
    yield from (node for node in nodes if not node.kwargs)


def call(graph: Graph, target: Callable[..., Any], *args: Any) -> Any:
    """Add the call of an operator at the graph's insertion point.

    Args:
        graph: that it is added to.
        target: the operator.
        *args: of it.
    """
    return graph.call_function(target, args)


def replace(node: Any, result: Any) -> None:
    """Put a result in a node's place; it takes over what is known of the node's value."""
    result.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


def are_constants(*nodes: Any) -> bool:
    """Tell whether nodes read parameters or buffers; an argument that is not given counts as one."""
    return all(node is None or (isinstance(node, Node) and node.op == "get_attr") for node in nodes)


def constant(module: GraphModule, node: Any) -> Tensor:
    """Return the parameter or buffer that a node reads."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()  # type: ignore[no-any-return]


def add_constant(module: GraphModule, value: Tensor) -> Node:
    """Hold a tensor in the module and return a node that reads it, at the graph's insertion point."""
    name = f"rewritten_{sum(key.startswith('rewritten_') for key in module._buffers)}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def linear(module: GraphModule, x: Node, weight: Tensor, bias: Node | None) -> Any:
    """Add a linear layer at the graph's insertion point.

    Args:
        module: that holds the weight.
        x: what it is applied to, [..., in].
        weight: [out, in].
        bias: a node that reads it, if there is one.
    """
    return call(module.graph, aten.linear.default, x, add_constant(module, weight.contiguous()), bias)


def frames_of(graph: Graph, x: Any, count: int, kernel: int, stride: int) -> Any:
    """Cut [B, 1, T] into overlapping frames, [B, count, kernel]: shifted copies in rows of `stride`, side by side.

    Args:
        graph: that the operators are added to.
        x: a node whose value is known.
        count: of frames.
        kernel: samples of a frame.
        stride: samples from one frame to the next.
    """
    batch, _, length = x.meta["val"].shape
    chunks = math.ceil(kernel / stride)
    flat = call(graph, aten.reshape.default, x, [batch, length])
    needed = (chunks - 1 + count) * stride
    if needed > length:
        flat = call(graph, aten.constant_pad_nd.default, flat, [0, needed - length], 0.0)
    columns = []
    for chunk in range(chunks):
        start = chunk * stride
        part = call(graph, aten.slice.Tensor, flat, 1, start, start + count * stride)
        rows = call(graph, aten.reshape.default, part, [batch, count, stride])
        width = min(stride, kernel - start)
        columns.append(call(graph, aten.slice.Tensor, rows, 2, 0, width) if width < stride else rows)
    return columns[0] if chunks == 1 else call(graph, aten.cat.default, columns, 2)
