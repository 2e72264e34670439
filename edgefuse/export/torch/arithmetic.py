"""Limits of two kinds of numbers, products of two vectors by a tensor, and inverses of small matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from edgefuse.export.torch.inlining import Form, Prepare, argument, is_float, shape_of

aten = torch.ops.aten


def clamped(_program: ExportedProgram, node: Any) -> Form | None:
    """Spell both limits as the numbers that they limit: ONNX has no clamp between 30 and 4000.0."""
    named = dict(node.kwargs)
    limits = [named.get(name, argument(node, place)) for place, name in ((1, "min"), (2, "max"))]
    if not is_float(node.args[0]) or {type(limit) for limit in limits} != {int, float}:
        return None
    low, high = map(float, limits)
    return Form(lambda x: x.clamp(low, high), (node.args[0],))


def bilinear(_program: ExportedProgram, node: Any) -> Form | None:
    """Multiply by a weight [out, first, second] from both sides, one after the other."""
    first, second, weight = node.args[:3]
    bias = argument(node, 3)

    def product(x: Tensor, y: Tensor, weight: Tensor, *added: Tensor) -> Tensor:
        out, left, right = weight.shape
        rows = x @ weight.permute(1, 0, 2).reshape(left, out * right)
        found: Tensor = (rows.reshape(*rows.shape[:-1], out, right) @ y.unsqueeze(-1)).squeeze(-1)
        return found + added[0] if added else found

    return Form(product, (first, second, weight, *([] if bias is None else [bias])))


def inverse(_program: ExportedProgram, node: Any) -> Form | None:
    """Divide the cofactors of a small matrix, such as a camera's, by its determinant (Cramer's rule)."""
    size = shape_of(node.args[0])[-1]
    if size not in (2, 3, 4) or not is_float(node.args[0]):
        return None
    places = torch.arange(size * size).reshape(size, size)
    others = [[place for place in range(size) if place != gone] for gone in range(size)]
    minors = torch.stack([places[rows][:, columns] for rows in others for columns in others]).flatten()
    signs = 1.0 - 2.0 * ((torch.arange(size)[:, None] + torch.arange(size)) % 2)

    def inverted(x: Tensor, minors: Tensor, signs: Tensor) -> Tensor:
        rows = x.reshape(-1, size * size).index_select(1, minors).reshape(-1, size, size, size - 1, size - 1)
        cofactors = _determinant(rows) * signs
        whole = (x.reshape(-1, size, size)[:, 0] * cofactors[:, 0]).sum(-1)
        return (cofactors.mT / whole[:, None, None]).reshape(x.shape)

    return Form(inverted, (node.args[0],), (minors, signs))


def _determinant(x: Tensor) -> Tensor:
    """Return the determinants of matrices of at most three rows, by their first one."""
    size = x.shape[-1]
    if size == 1:
        return x[..., 0, 0]
    if size == 2:
        return x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0]
    first, second, third = (x[..., row, :] for row in range(3))
    crossed = second.roll(-1, -1) * third.roll(-2, -1) - second.roll(-2, -1) * third.roll(-1, -1)
    return (first * crossed).sum(-1)


FORMS: dict[Any, Prepare] = {
    aten.clamp.default: clamped,
    aten.linalg_inv.default: inverse,
    aten.inverse.default: inverse,
    aten.linalg_inv_ex.default: inverse,
}
"""Forms that every target gains by."""

LACKING: dict[Any, Prepare] = {aten.bilinear.default: bilinear}
"""Those of operators that ONNX has and TFLite has not."""
