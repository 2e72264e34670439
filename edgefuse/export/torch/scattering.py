"""Numbers added up where an index says, and indices as rows of ones and zeros: by comparison with all places.

TFLite's runtime refuses the scatter that adds. A place is compared with the index of every number, and the matrix of
ones and zeros that comes out is multiplied by the numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, is_float, shape_of

aten = torch.ops.aten

_LARGEST = 1 << 22
"""Numbers of a comparison beyond which it costs more than a stage is worth."""
_FAR_BELOW = -3e38


def one_hot(_program: ExportedProgram, node: Any) -> Form | None:
    """Compare indices with the number of each class."""
    classes = argument(node, 1, -1)
    if classes < 0:
        return None
    numbers = torch.arange(classes, dtype=node.args[0].meta["val"].dtype)
    return Form(lambda x, n: (x.unsqueeze(-1) == n).to(torch.int64), (node.args[0],), (numbers,))


def scattered(_program: ExportedProgram, node: Any) -> Form | None:
    """Reduce the numbers of an axis into the places that an index of the same shape says."""
    into, axis, index, values = node.args[:4]
    way, with_self = argument(node, 4, "sum"), dict(node.kwargs).get("include_self", True)
    before, places = shape_of(into), shape_of(index)
    if not before or not is_float(into) or way not in ("sum", "mean", "amax", "amin") or _is_changed_elsewhere(node):
        return None
    axis %= len(before)
    if not all(isinstance(size, int) for size in (*before, *places)):
        return None
    if any(old != new for i, (old, new) in enumerate(zip(before, places, strict=True)) if i != axis):
        return None
    shared = _same_along_others(index, axis)
    compared = places[axis] if shared is not None else math.prod(places)
    if compared * before[axis] > _LARGEST:
        return None

    def function(into: Tensor, index: Tensor, values: Tensor) -> Tensor:
        for i, size in enumerate(places):
            values = values.narrow(i, 0, size) if values.shape[i] != size else values
        rows = index.reshape(-1) if shared is not None else index.movedim(axis, -1)
        return _reduced(into, axis, rows, values, way, with_self=with_self)

    return Form(function, (into, index if shared is None else shared, values))


def added(_program: ExportedProgram, node: Any) -> Form | None:
    """Add slices of an axis to those that a list of places says."""
    into, axis, index, values = node.args[:4]
    before, count = shape_of(into), shape_of(index)
    if not before or not is_float(into) or len(count) != 1 or _is_changed_elsewhere(node):
        return None
    axis %= len(before)
    if not all(isinstance(size, int) for size in (*before, *count)) or count[0] * before[axis] > _LARGEST:
        return None
    factor = dict(node.kwargs).get("alpha", 1)

    def function(into: Tensor, index: Tensor, values: Tensor) -> Tensor:
        return _reduced(into, axis, index, values if factor == 1 else values * factor, "sum", with_self=True)

    return Form(function, (into, index, values))


def _reduced(into: Tensor, axis: int, index: Tensor, values: Tensor, way: str, *, with_self: bool) -> Tensor:
    """Reduce values [..., T, ...] along an axis into the places that an index [T] or [..., T], that axis last, says."""
    moved, old = values.movedim(axis, -1), into.movedim(axis, -1)
    places = torch.arange(old.shape[-1], dtype=index.dtype)
    chosen = (index.unsqueeze(-2) == places.unsqueeze(-1)).to(old.dtype)
    counts = chosen.sum(-1)
    if way in ("amax", "amin"):
        sign = 1.0 if way == "amax" else -1.0
        found = torch.where(chosen > 0, sign * moved.unsqueeze(-2), _FAR_BELOW).amax(-1)
        found = sign * (torch.maximum(found, sign * old) if with_self else found)
    else:
        found = (chosen @ moved.unsqueeze(-1)).squeeze(-1) if index.dim() > 1 else moved @ chosen.transpose(0, 1)
        found = found + old if with_self else found
        if way == "mean":
            found = found / (counts + 1.0 if with_self else counts.clamp(min=1.0))
    return (found if with_self else torch.where(counts > 0, found, old)).movedim(-1, axis)


def _same_along_others(index: Any, axis: int) -> Any:
    """Return the node of which an index is a broadcast along all axes but one; None if it is not known to be one."""
    sizes = shape_of(index)
    while index.target in (aten.to.dtype, aten.expand.default, aten.expand_as.default):
        index = index.args[0]
        found = shape_of(index)
        others = [size for i, size in enumerate(found, len(sizes) - len(found)) if i != axis]
        if math.prod(found) == sizes[axis] and all(size == 1 for size in others):
            return index
    return None


def _is_changed_elsewhere(node: Any) -> bool:
    """Tell whether an operator writes into a tensor that others may read, too: any that was not just made for it."""
    if "_." not in str(node.target):
        return False
    return node.args[0].target not in _NEW or len(node.args[0].users) > 1


_NEW = frozenset(
    {
        *(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.full.default, aten.clone.default),
        *(aten.ones.default, aten.full_like.default, aten.new_full.default),
    }
)

FORMS: dict[Any, Prepare] = {
    aten.one_hot.default: one_hot,
    aten.scatter_add.default: scattered,
    aten.scatter_add_.default: scattered,
    aten.scatter_reduce.two: scattered,
    aten.scatter_reduce_.two: scattered,
    aten.index_add.default: added,
    aten.index_add_.default: added,
}
