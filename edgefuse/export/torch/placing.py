"""Images and sequences made larger: nearest neighbours at any size, mirrored and repeated ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, shape_of

aten = torch.ops.aten


def nearest(_program: ExportedProgram, node: Any) -> Form | None:
    """Gather rows and columns, where a size is no multiple of the one before; torch itself says which."""
    before, after = shape_of(node.args[0])[2:], shape_of(node)[2:]
    if not all(isinstance(size, int) for size in (*before, *after)):
        return None
    if all(new % old == 0 for old, new in zip(before, after, strict=True)) and not _is_exact(node):
        return None
    places = [_places(node, axis, before, after) for axis in range(len(before))]

    def gathered(x: Tensor, *indices: Tensor) -> Tensor:
        for axis, index in enumerate(indices, 2):
            x = x.index_select(axis, index)
        return x

    return Form(gathered, (node.args[0],), tuple(places))


def _places(node: Any, axis: int, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """Return which places of an axis torch takes, by asking it about their numbers."""
    numbers = torch.arange(before[axis], dtype=torch.float32)
    shape = [1] * len(before)
    shape[axis] = -1
    grid = numbers.reshape(1, 1, *shape).expand(1, 1, *before).contiguous()
    found: Tensor = node.target(grid, *node.args[1:], **node.kwargs)
    along = [0, 0] + [slice(None) if other == axis else 0 for other in range(len(after))]
    return found[tuple(along)].round().to(torch.int32)


def _is_exact(node: Any) -> bool:
    return "exact" in str(node.target)


def reflected(_program: ExportedProgram, node: Any) -> Form | None:
    """Gather what lies mirrored, or is repeated, around the ends of one axis after the other."""
    sizes, mode = argument(node, 1), argument(node, 2, "constant")
    if mode not in ("reflect", "replicate", "circular"):
        return None
    shape = shape_of(node.args[0])
    pairs = [(len(shape) - 1 - i, sizes[2 * i], sizes[2 * i + 1]) for i in range(len(sizes) // 2)]
    pairs = [pair for pair in pairs if pair[1] or pair[2]]
    if not all(isinstance(shape[axis], int) for axis, *_ in pairs):
        return None
    places = [_around(shape[axis], before, after, mode) for axis, before, after in pairs]

    def padded(x: Tensor, *indices: Tensor) -> Tensor:
        for (axis, *_), index in zip(pairs, indices, strict=True):
            x = x.index_select(axis, index)
        return x

    return Form(padded, (node.args[0],), tuple(places))


def _around(size: int, before: int, after: int, mode: str) -> Tensor:
    numbers = torch.arange(size, dtype=torch.float32).reshape(1, 1, -1)
    return torch.nn.functional.pad(numbers, (before, after), mode=mode).flatten().to(torch.int32)


FORMS: dict[Any, Prepare] = {
    aten.upsample_nearest1d.vec: nearest,
    aten.upsample_nearest2d.vec: nearest,
    aten.upsample_nearest1d.default: nearest,
    aten.upsample_nearest2d.default: nearest,
    aten._upsample_nearest_exact1d.vec: nearest,
    aten._upsample_nearest_exact2d.vec: nearest,
    aten.pad.default: reflected,
}
