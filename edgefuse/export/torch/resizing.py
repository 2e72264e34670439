"""Resized images as a matrix product per axis, where TFLite has no such operator, or one that answers otherwise.

Its bilinear operator knows sizes, not scales: with `scale_factor=0.6`, 13 rows become 7, but lie 1 / 0.6 apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, shape_of
from edgefuse.export.torch.pools import multiplied

aten = torch.ops.aten

_LARGEST = 1 << 18
"""Numbers of an axis before, times those after, beyond which a dense matrix costs more than it saves."""


def bilinear(program: ExportedProgram, node: Any) -> Form | None:
    """Multiply by matrices where a scale is not that of the sizes."""
    before, after = shape_of(node.args[0])[2:], shape_of(node)[2:]
    given = argument(node, 3) if str(node.target).endswith("vec") else node.args[3:5]
    if not given or argument(node, 2) or None in given:
        return None
    if all(old * scale == new for old, new, scale in zip(before, after, given, strict=True)):
        return None
    return resized(program, node)


def resized(_program: ExportedProgram, node: Any) -> Form | None:
    """Multiply by a matrix per axis; torch itself says which numbers it holds."""
    before, after = shape_of(node.args[0])[2:], shape_of(node)[2:]
    if not all(isinstance(size, int) for size in (*before, *after)):
        return None
    if any(old * new > _LARGEST for old, new in zip(before, after, strict=True)):
        return None
    rank = len(before)
    matrices = tuple(_matrix(node, axis, before) for axis in range(rank))

    def multiply(x: Tensor, *matrices: Tensor) -> Tensor:
        for axis, matrix in enumerate(matrices, -rank):
            x = multiplied(x, axis, matrix)
        return x

    return Form(multiply, (node.args[0],), matrices)


def _matrix(node: Any, axis: int, before: tuple[int, ...]) -> Tensor:
    """Return float32 [after, before] of an axis: what becomes of each of its numbers, alone among zeros."""
    size, shape = before[axis], [1] * len(before)
    shape[axis] = before[axis]
    alone = torch.eye(size).reshape(size, 1, *shape).expand(size, 1, *before).contiguous()
    found: Tensor = node.target(alone, *node.args[1:], **node.kwargs)
    along: list[Any] = [slice(None), 0] + [slice(None) if other == axis else 0 for other in range(len(before))]
    return found[tuple(along)].T.contiguous()


FORMS: dict[Any, Prepare] = {
    aten.upsample_bilinear2d.vec: bilinear,
    aten.upsample_bilinear2d.default: bilinear,
    aten.upsample_bicubic2d.vec: resized,
    aten.upsample_bicubic2d.default: resized,
    aten._upsample_bilinear2d_aa.vec: resized,
    aten._upsample_bilinear2d_aa.default: resized,
    aten._upsample_bicubic2d_aa.vec: resized,
    aten._upsample_bicubic2d_aa.default: resized,
}
