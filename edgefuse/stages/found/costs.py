"""What a node of a traced graph costs: multiply-accumulates and bytes, at the sizes that it was traced with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

aten = torch.ops.aten


def size_hint(size: Any) -> int:
    """Return a size as a number: what a symbolic one was when it was traced; 1 where values decide it."""
    if isinstance(size, int):
        return size
    return 1 if is_data_dependent(size) else int(size.node.hint)


def is_data_dependent(size: Any) -> bool:
    """Tell whether a size follows from the values of a tensor, as that of `nonzero` does, and not from shapes."""
    return isinstance(size, SymInt) and size.node.hint is None


def elements(value: object) -> int:
    """Return the number of elements of a tensor, or of all in a tuple."""
    if isinstance(value, Tensor):
        return math.prod(map(size_hint, value.shape))
    return sum(map(elements, value)) if isinstance(value, tuple | list) else 0


def value_of(node: Node) -> Any:
    """Return the fake value that a node had when it was traced."""
    return node.meta.get("val")


@dataclass(frozen=True)
class Foreign:
    """What a node computes in a graph that is not torch's: nobody calls it.

    Attributes:
        __name__: the operator.
        macs: its multiply-accumulates.
        is_lookup: whether it looks rows up in a table.
        is_spectrum: whether it is a Fourier transform.
    """

    __name__: str
    macs: int = 0
    is_lookup: bool = False
    is_spectrum: bool = False

    def __call__(self) -> None:
        """Do nothing: a graph of torch's wants its targets to be callable."""


def macs(node: Node) -> int:
    """Return the multiply-accumulates of a node; 0 where it is not a product."""
    if isinstance(node.target, Foreign):
        return node.target.macs
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


def _bilinear(node: Node) -> int:
    return elements(value_of(node)) * math.prod(_shape(node.args[2])[1:])


def _tensordot(node: Node) -> int:
    shape = _shape(node.args[0])
    return elements(value_of(node)) * math.prod(shape[axis] for axis in node.args[2])  # type: ignore[union-attr, index, misc] # numbers


def _einsum(node: Node) -> int:
    """The products of the operands one after the other, as torch computes them; an ellipsis counts as one index."""
    terms, arrow, result = str(node.args[0]).replace(" ", "").replace("...", ".").partition("->")
    names = terms.split(",")
    sizes: dict[str, int] = {}
    for term, operand in zip(names, node.args[1], strict=True):  # type: ignore[arg-type] # a list of nodes
        for index, size in _indices(term, _shape(operand)):
            sizes[index] = max(size, sizes.get(index, 1))
    wanted = set(result if arrow else (index for index in terms if terms.count(index) == 1 or index == "."))
    count, held = 0, set(names[0])
    for place, term in enumerate(names[1:], 2):
        both = held | set(term)
        count += math.prod(sizes.get(index, 1) for index in both)
        held = both & wanted.union(*names[place:])
    return count


def _indices(term: str, shape: list[int]) -> Iterator[tuple[str, int]]:
    """Yield the indices of an operand with their sizes; `.` stands for as many as the others leave."""
    before, _, after = term.partition(".")
    yield from zip(before, shape, strict=False)
    yield from zip(reversed(after), reversed(shape), strict=False)
    if "." in term:
        yield ".", math.prod(shape[len(before) : len(shape) - len(after)])


def _cell(node: Node) -> int:
    """One step of a recurrent layer: the rows of the input times the matrices of weights, the last two of such."""
    weights = [one for one in node.all_input_nodes if len(_shape(one)) == 2][-2:]
    return _shape(node.args[0])[0] * sum(elements(value_of(one)) for one in weights)


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
    aten.dot: _inner,
    aten.inner: _inner,
    aten.einsum: _einsum,
    aten.tensordot: _tensordot,
    aten.bilinear: _bilinear,
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
    aten.lstm_cell: _cell,
    aten.gru_cell: _cell,
    aten.rnn_tanh_cell: _cell,
    aten.rnn_relu_cell: _cell,
}
"""By the operator. (torch's own flop counter has no entry for operators that are not decomposed yet.)"""


def is_lookup(node: Node) -> bool:
    """Tell whether a node looks rows up in a table."""
    if isinstance(node.target, Foreign):
        return node.target.is_lookup
    return getattr(node.target, "overloadpacket", None) in (aten.embedding, aten.embedding_bag)


def is_spectrum(node: Node) -> bool:
    """Tell whether a node is a Fourier transform."""
    if isinstance(node.target, Foreign):
        return node.target.is_spectrum
    return getattr(node.target, "overloadpacket", None) in (aten.stft, aten._fft_r2c, aten._fft_c2c, aten.fft_rfft)
