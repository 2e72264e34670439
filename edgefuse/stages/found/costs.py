"""What a node of a traced graph costs: multiply-accumulates and bytes, at the sizes that it was traced with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

aten = torch.ops.aten


def size_hint(size: Any) -> int:
    """Return a size as a number: what a symbolic one was when it was traced."""
    return int(size) if isinstance(size, int) else int(size.node.hint)


def elements(value: object) -> int:
    """Return the number of elements of a tensor, or of all in a tuple."""
    if isinstance(value, Tensor):
        return math.prod(map(size_hint, value.shape))
    return sum(map(elements, value)) if isinstance(value, tuple | list) else 0


def value_of(node: Node) -> Any:
    """Return the fake value that a node had when it was traced."""
    return node.meta.get("val")


def macs(node: Node) -> int:
    """Return the multiply-accumulates of a node; 0 where it is not a product."""
    count = _COUNTS.get(getattr(node.target, "overloadpacket", None))
    return count(node) if count else 0


def _shape(node: Any) -> list[int]:
    return [size_hint(size) for size in value_of(node).shape]


def _inner(node: Node) -> int:
    """A product of matrices: the elements of the result, each a sum over the first's last axis."""
    return elements(value_of(node)) * _shape(node.args[0])[-1]


def _inner_second(node: Node) -> int:
    return elements(value_of(node)) * _shape(node.args[1])[-1]  # the first is what is added


def _convolution(node: Node) -> int:
    return elements(value_of(node)) * math.prod(_shape(node.args[1])[1:])


def _any_convolution(node: Node) -> int:
    return _transposed(node) if node.args[6] else _convolution(node)


def _transposed(node: Node) -> int:
    return elements(value_of(node.args[0])) * math.prod(_shape(node.args[1])[1:])  # type: ignore[arg-type] # a node


def _attention(node: Node) -> int:
    query, key = _shape(node.args[0]), _shape(node.args[1])
    return 2 * math.prod(query) * key[-2]  # scores, and their product with as many values


def _recurrent(node: Node) -> int:
    batch_and_steps = elements(value_of(node)[0]) // max(1, size_hint(value_of(node)[0].shape[-1]))
    weights = [one for one in node.all_input_nodes if one.op == "placeholder" and len(_shape(one)) == 2]
    return batch_and_steps * sum(elements(value_of(one)) for one in weights)


_COUNTS: dict[Any, Callable[[Node], int]] = {
    aten.linear: _inner,
    aten.matmul: _inner,
    aten.mm: _inner,
    aten.bmm: _inner,
    aten.mv: _inner,
    aten.addmm: _inner_second,
    aten.baddbmm: _inner_second,
    aten.conv1d: _convolution,
    aten.conv2d: _convolution,
    aten.conv3d: _convolution,
    aten.convolution: _any_convolution,
    aten.conv_transpose1d: _transposed,
    aten.conv_transpose2d: _transposed,
    aten.conv_transpose3d: _transposed,
    aten.scaled_dot_product_attention: _attention,
    aten.lstm: _recurrent,
    aten.gru: _recurrent,
    aten.rnn_tanh: _recurrent,
    aten.rnn_relu: _recurrent,
}
"""By the operator. (torch's own flop counter has no entry for operators that are not decomposed yet.)"""


def is_lookup(node: Node) -> bool:
    """Tell whether a node looks rows up in a table."""
    return getattr(node.target, "overloadpacket", None) in (aten.embedding, aten.embedding_bag)


def is_spectrum(node: Node) -> bool:
    """Tell whether a node is a Fourier transform."""
    return getattr(node.target, "overloadpacket", None) in (aten.stft, aten._fft_r2c, aten._fft_c2c, aten.fft_rfft)
