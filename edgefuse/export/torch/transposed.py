"""Transposed convolutions of any padding, dilation and rank, and convolutions of volumes in groups.

TFLite has transposed ones of images, without padding and dilation. What padding cuts off or adds is cut off or added
behind one of these; a dilated one, and one of volumes, is a plain convolution of the input with zeros between its
numbers. Groups of a volume's channels are convolved one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import functional

from edgefuse.export.torch.inlining import Form, Prepare, argument, constant_of, shape_of

aten = torch.ops.aten

_TURNED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input}
_PLAIN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_MOST_GROUPS = 64
"""Groups of a volume's channels beyond which that many convolutions are no form of one."""


@dataclass(frozen=True)
class _Sizes:
    """How a transposed convolution steps along each axis; `added` is its output padding."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    added: list[int]
    groups: int


def transposed_convolution(program: ExportedProgram, node: Any) -> Form | None:
    """Convolve without padding and cut, or convolve plainly what has zeros in between."""
    if node.target is aten.convolution.default and not node.args[6]:
        return None
    sizes, after = _sizes(node), shape_of(node)[2:]
    rank = len(after)
    if not all(isinstance(size, int) for size in (*after, *shape_of(node.args[0])[2:])) or rank not in _PLAIN:
        return None
    if rank == 3 or any(step != 1 for step in sizes.dilation):
        return _between_zeros(program, node, sizes)
    return _cut(node, sizes, after) if any(sizes.padding) or any(sizes.added) else None


def _sizes(node: Any) -> _Sizes:
    rank = len(shape_of(node.args[0])) - 2
    if node.target is aten.convolution.default:
        stride, padding, dilation, _, added, groups = node.args[3:9]
    else:
        stride, padding, added = (argument(node, i, d) for i, d in ((3, [1]), (4, [0]), (5, [0])))
        groups, dilation = argument(node, 6, 1), argument(node, 7, [1])
    return _Sizes(_each(stride, rank), _each(padding, rank), _each(dilation, rank), _each(added, rank), groups)


def _cut(node: Any, sizes: _Sizes, after: tuple[int, ...]) -> Form:
    """Convolve without padding, then cut off or add what paddings say."""
    rank, bias = len(after), argument(node, 2)

    def convolved(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        none = [0] * rank
        y: Tensor = _TURNED[rank](x, weight, None, sizes.stride, none, none, sizes.groups, sizes.dilation)
        for axis, (start, wanted) in enumerate(zip(sizes.padding, after, strict=True), 2):
            length = min(wanted, y.shape[axis] - start)
            y = y.narrow(axis, start, length) if (start, length) != (0, y.shape[axis]) else y
            if length < wanted:
                missing = list(y.shape)
                missing[axis] = wanted - length
                y = torch.cat([y, torch.zeros(missing)], axis)
        return y + rest[0].reshape(1, -1, *[1] * rank) if rest else y

    return Form(convolved, (node.args[0], node.args[1], *([] if bias is None else [bias])))


def _between_zeros(program: ExportedProgram, node: Any, sizes: _Sizes) -> Form:
    """Put zeros between and around the numbers, then convolve with the weights turned around."""
    rank, bias = len(sizes.stride), argument(node, 2)
    kernel = shape_of(node.args[1])[2:]
    reach = [step * (size - 1) for step, size in zip(sizes.dilation, kernel, strict=True)]
    before = [far - cut for far, cut in zip(reach, sizes.padding, strict=True)]
    behind = [start + more for start, more in zip(before, sizes.added, strict=True)]
    held = constant_of(program, node.args[1])

    def convolved(x: Tensor, *rest: Tensor) -> Tensor:
        weight = _turned(rest[0], sizes.groups) if held is None else rest[-1]
        shift = None if bias is None else rest[int(held is None)]
        for axis in range(rank):
            x = _extended(_spread(x, axis + 2, sizes.stride[axis]), axis + 2, before[axis], behind[axis])
        return _convolved(x, weight, shift, [1] * rank, [0] * rank, sizes.dilation, sizes.groups)

    inputs = [node.args[0], *([node.args[1]] if held is None else []), *([] if bias is None else [bias])]
    return Form(convolved, tuple(inputs), () if held is None else (_turned(held, sizes.groups),))


def grouped(_program: ExportedProgram, node: Any) -> Form | None:
    """Convolve the groups of a volume's channels one by one."""
    stride, padding, dilation = (_each(argument(node, i, d), 3) for i, d in ((3, [1]), (4, [0]), (5, [1])))
    groups, bias = argument(node, 6, 1), argument(node, 2)
    if not 1 < groups <= _MOST_GROUPS:
        return None

    def convolved(x: Tensor, weight: Tensor, *shift: Tensor) -> Tensor:
        return _convolved(x, weight, shift[0] if shift else None, stride, padding, dilation, groups)

    return Form(convolved, (node.args[0], node.args[1], *([] if bias is None else [bias])))


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, *sizes: Any) -> Tensor:
    """Convolve plainly; `sizes` are stride, padding, dilation and groups, which volumes have one by one."""
    rank, groups = x.dim() - 2, sizes[-1]
    convolve: Any = _PLAIN[rank]
    if rank < 3 or groups == 1:
        found: Tensor = convolve(x, weight, bias, *sizes)
        return found
    pairs = zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    y = torch.cat([convolve(part, kernel, None, *sizes[:-1]) for part, kernel in pairs], 1)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1, 1)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Return the weights [in, out / groups, *kernel] of a transposed convolution as those of a plain one."""
    rank = weight.dim() - 2
    flipped = weight.flip(list(range(2, 2 + rank)))
    by_group = flipped.reshape(groups, -1, *flipped.shape[1:]).transpose(1, 2)
    return by_group.reshape(-1, *by_group.shape[2:])


def _spread(x: Tensor, axis: int, step: int) -> Tensor:
    """Put zeros between the numbers of an axis, so that they lie a step apart."""
    if step == 1:
        return x
    shape = list(x.shape)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = functional.pad(x.reshape(outer, shape[axis], inner), (0, (step - 1) * inner))
    apart = rows.reshape(*shape[:axis], shape[axis] * step, *shape[axis + 1 :])
    return apart.narrow(axis, 0, (shape[axis] - 1) * step + 1)


def _extended(x: Tensor, axis: int, before: int, behind: int) -> Tensor:
    """Add so many zeros at each end of an axis, or cut so much off where a number is negative."""
    start, end = max(-before, 0), x.shape[axis] - max(-behind, 0)
    if (start, end) != (0, x.shape[axis]):
        x = x.narrow(axis, start, end - start)
    sizes = [0, 0] * (x.dim() - 1 - axis) + [max(before, 0), max(behind, 0)]
    return functional.pad(x, sizes) if any(sizes) else x


def _each(sizes: Any, rank: int) -> list[int]:
    found = [sizes] if isinstance(sizes, int) else list(sizes)
    return found * rank if len(found) == 1 else found


FORMS: dict[Any, Prepare] = {
    aten.conv_transpose1d.default: transposed_convolution,
    aten.conv_transpose2d.input: transposed_convolution,
    aten.conv_transpose3d.input: transposed_convolution,
    aten.convolution.default: transposed_convolution,
    aten.conv3d.default: grouped,
}
